"""Lung masks without a network, for scans that come without one; and from a mask, whether the blood between the lungs is enhanced."""

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import binary_fill_holes, distance_transform_edt, label

_AIR_HU = -400.0      # between lung, even a dense one, and soft tissue
_VESSEL_MM = 4.0      # radius up to which vessels inside the lungs are closed
_AIRWAY_MM = 5.0      # radius up to which air-filled tubes are cut off: the main bronchi, so that the trachea falls away
_SMALLEST = 0.12      # of the larger lung; below it a component is no lung but bowel, trachea or noise
_LEAST_LITRES = 0.3


def lung_mask(image: sitk.Image) -> sitk.Image:
    """Both lungs of a chest CT in HU, as uint8 0 or 1 on the image's own grid, any spacing and orientation.

    Air inside the body (holes of each axial slice, so that lungs cut by the ends of the scan count), closed over the vessels, less
    the tubes that an opening cuts off, in at most two large components. It is no expert's mask: consolidations at the pleura are left
    out, and parts of the large bronchi may be in.

    Raises ValueError when there is nothing like lungs.
    """
    oriented = sitk.DICOMOrient(image, "LPS")  # so that slices are axial
    spacing = oriented.GetSpacing()[::-1]
    air = sitk.GetArrayFromImage(oriented) < _AIR_HU
    inside = _body(~air) & air
    lungs = _lungs(_closed(inside, spacing), spacing)
    litres = lungs.sum() * np.prod(spacing) / 1e6
    if litres < _LEAST_LITRES:
        raise ValueError(f"found only {litres:.2f} litres of air inside a body; is it a chest CT in HU? If so, give a lung mask")
    mask = sitk.GetImageFromArray(lungs.astype(np.uint8))
    mask.CopyInformation(oriented)
    mask = sitk.Resample(mask, image, sitk.Transform(), sitk.sitkNearestNeighbor)  # back to the image's own axes
    mask.CopyInformation(image)
    return mask


def blood_hu(image: sitk.Image, lungs: sitk.Image) -> float:
    """HU of the brightest soft tissue between the lungs: the 90th percentile of 0 to 400 HU in front of the spine, at the height of
    the middle third of the lungs; NaN with next to none. 50 to 70 without, above 150 with contrast agent in the blood."""
    mask = sitk.GetArrayViewFromImage(lungs) > 0
    if not mask.any():
        return float("nan")
    voxels = np.argwhere(mask)
    low, high = voxels.min(0), voxels.max(0) + 1
    hu, mask = (a[tuple(slice(i, j) for i, j in zip(low, high, strict=True))] for a in (sitk.GetArrayViewFromImage(image), mask))
    to_world = np.reshape(image.GetDirection(), (3, 3))[:, ::-1] * np.array(image.GetSpacing())[::-1]  # index z, y, x -> x, y, z mm
    where = np.argwhere((hu > 0) & (hu < 400) & ~mask) @ to_world.T
    box = np.sort(np.array([[0, 0, 0], np.array(mask.shape)]) @ to_world.T, axis=0)
    part = (where - box[0]) / (box[1] - box[0])  # 0 to 1 along x, y, z
    middle = (np.abs(part[:, 0] - 0.5) < 0.2) & (part[:, 1] > 0.2) & (part[:, 1] < 0.6) & (np.abs(part[:, 2] - 0.5) < 0.17)
    values = hu[(hu > 0) & (hu < 400) & ~mask][middle]
    return float(np.percentile(values, 90)) if len(values) >= 10 else float("nan")


def _body(dense: np.ndarray) -> np.ndarray:
    """The largest dense component, filled slice by slice."""
    components, _ = label(dense)
    largest = components == np.bincount(components.ravel())[1:].argmax() + 1 if dense.any() else dense
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    return binary_fill_holes(largest, in_plane)


def _closed(inside: np.ndarray, spacing) -> np.ndarray:
    """Without the vessels, which an opening would take for walls."""
    pad = [(int(np.ceil(_VESSEL_MM / s)) + 1,) * 2 for s in spacing]  # lung goes on beyond the ends of the scan
    grown = _distance_to(np.pad(inside, pad, mode="edge"), spacing) <= _VESSEL_MM
    closed = _distance_to(~grown, spacing) > _VESSEL_MM
    return binary_fill_holes(closed[tuple(slice(before, -after) for before, after in pad)])


def _lungs(inside: np.ndarray, spacing) -> np.ndarray:
    """At most two large components of the opening by a ball of _AIRWAY_MM."""
    core = _distance_to(~inside, spacing) > _AIRWAY_MM
    components, count = label(core)
    if not count:
        return core
    sizes = np.bincount(components.ravel(), minlength=3)
    sizes[0] = 0
    first, second = np.argsort(sizes)[:-3:-1]
    kept = (components == first) | ((components == second) & (sizes[second] >= _SMALLEST * sizes[first]))
    return (_distance_to(kept, spacing) <= _AIRWAY_MM) & inside


def _distance_to(mask: np.ndarray, spacing) -> np.ndarray:
    """mm from every voxel's centre to that of the nearest voxel in the mask; infinite for an empty one."""
    return distance_transform_edt(~mask, sampling=spacing) if mask.any() else np.full(mask.shape, np.inf)
