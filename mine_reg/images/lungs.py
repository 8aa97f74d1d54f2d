"""Lungs in an array of HU, found by their shape and density alone."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt, label

_AIR_HU = -400.0  # between lung, even a dense one, and soft tissue
_VESSEL_MM = 4.0  # radius up to which vessels inside the lungs are closed
_AIRWAY_MM = 5.0  # radius up to which air-filled tubes are cut off: the main bronchi, so that the trachea falls away
_SMALLEST = 0.12  # of the larger lung; below it a component is no lung but bowel, trachea or noise
_LEAST_LITRES = 0.3


def find_lungs(hu: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Both lungs of a chest CT (axial slices, D, H, W) with ``spacing`` in mm (z, y, x), as a Boolean array.

    Air inside the body (holes of each axial slice, so that lungs cut by the ends of the scan count), closed over the
    vessels, less the tubes that an opening cuts off, in at most two large components.

    Raises ValueError when there is nothing like lungs.
    """
    air = hu < _AIR_HU
    inside = _body(~air) & air
    lungs = _lungs(_closed(inside, spacing), spacing)
    litres = lungs.sum() * np.prod(spacing) / 1e6
    if litres < _LEAST_LITRES:
        raise ValueError(
            f"found only {litres:.2f} litres of air inside a body; is it a chest CT in HU? If so, give a lung mask"
        )
    return lungs


def find_body(hu: np.ndarray) -> np.ndarray:
    """The body in axial slices (D, H, W), with the air inside it, as a Boolean array: the largest component denser than
    lung, filled slice by slice. Empty when nothing is as dense."""
    return _body(hu >= _AIR_HU)


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
