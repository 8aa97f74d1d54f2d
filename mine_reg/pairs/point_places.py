"""Whether corresponding points lie where both images show the same, or would in another way of reading their files.

Before a registration, distances cannot tell: both files in RAS, or swapped, are as near to each other as the right
ones. What the images show around the points can, and so can the lungs.
"""

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import distance_transform_edt, map_coordinates

from mine_reg.images.geometry import averaged, points_to_voxels, voxels_to_points
from mine_reg.images.hounsfield import AIR_HU

_MOST, _FEWEST = 300, 8  # points that are looked at; fewer say too little
_AROUND_MM = np.array([-8.0, -4.0, 0.0, 4.0, 8.0])  # where the images are compared, along each axis
_WINDOW_HU = (AIR_HU, 500)
_BETTER, _GOOD = 0.1, 0.5  # of the correlation: by how much another way must be better, and how good it must be
_NEAR_MM = 8.0  # of the lungs
_MORE_NEAR, _MOST_NEAR = 0.2, 0.9  # of the points: how many more, and how many, are there in another way
_RAS = np.array([-1.0, -1.0, 1.0])


def doubts_about_places(
    images: list[sitk.Image], masks: list[sitk.Image] | None, points: tuple[np.ndarray, np.ndarray]
) -> list[str]:
    """A sentence when points (N, 3), LPS mm, of the fixed and of the moving image would fit what these show far better
    if they were read in another way; none when they fit best as they are.

    images, masks : of fixed and moving; None: the lungs are not known
    """
    if len(points[0]) < _FEWEST:
        return []
    chosen = np.unique(np.linspace(0, len(points[0]) - 1, min(_MOST, len(points[0]))).astype(int))
    points = [own[chosen] for own in points]
    smooth = [sitk.Clamp(averaged(sitk.Cast(image, sitk.sitkFloat32), 4.0), sitk.sitkFloat32, *_WINDOW_HU)
              for image in images]  # fmt: skip
    depths = None if masks is None else [_distance(mask) for mask in masks]

    def fit(ways: list[np.ndarray]) -> tuple[float, float]:
        near = 1.0 if depths is None else float(np.mean([_near(*pair) for pair in zip(depths, ways, strict=True)]))
        return _correlation(smooth, ways), near

    (given, near), best = fit(points), None
    for said, ways in _other_ways(images, points):
        found, found_near = fit(ways)
        if (found > given + _BETTER and found > _GOOD) or (found_near > near + _MORE_NEAR and found_near > _MOST_NEAR):
            best = max(best or (-2.0,), (found + found_near, said, found, found_near))
    if best is None:
        return []
    _, said, found, found_near = best
    lungs = (
        "" if depths is None else f", and {100 * found_near:.0f} instead of {100 * near:.0f} % would be in the lungs"
    )
    return [
        f"it looks as if {said}: what the images show around the points would correlate with {found:.2f} instead of "
        f"{given:.2f}{lungs}"
    ]


def _other_ways(images: list[sitk.Image], points: list[np.ndarray]) -> list[tuple[str, list[np.ndarray]]]:
    return [
        ("both point files are in RAS", [own * _RAS for own in points]),
        ("both point files give z, y, x", [own[:, ::-1] for own in points]),
        ("both point files are in cm", [own * 10 for own in points]),
        ("both point files are in m", [own * 1000 for own in points]),
        ("both point files hold voxel indices", [
            voxels_to_points(own[:, ::-1], image).numpy() for own, image in zip(points, images, strict=True)
        ]),
        ("fixed and moving points are swapped", points[::-1]),
    ]  # fmt: skip


def _correlation(images: list[sitk.Image], points: list[np.ndarray]) -> float:
    """Mean over the points of the correlation of what both images show around each, 0 where one shows nothing."""
    around = np.stack(np.meshgrid(*[_AROUND_MM] * 3), -1).reshape(1, -1, 3)
    values = []
    for image, own in zip(images, points, strict=True):
        places = points_to_voxels((own[:, None] + around).reshape(-1, 3), image).numpy().T
        seen = map_coordinates(sitk.GetArrayViewFromImage(image), places, order=1, cval=AIR_HU)
        seen = seen.reshape(len(own), -1)
        values.append(seen - seen.mean(1, keepdims=True))
    scale = np.sqrt((values[0] ** 2).sum(1) * (values[1] ** 2).sum(1))
    return float(((values[0] * values[1]).sum(1) / np.maximum(scale, 1.0)).mean())


def _distance(mask: sitk.Image) -> tuple[np.ndarray, sitk.Image]:
    """mm to the lungs, 0 inside, and the grid."""
    outside = sitk.GetArrayViewFromImage(mask) < 0.5
    return distance_transform_edt(outside, sampling=mask.GetSpacing()[::-1]), mask


def _near(depth: tuple[np.ndarray, sitk.Image], points: np.ndarray) -> float:
    index = points_to_voxels(points, depth[1]).numpy().T
    return float((map_coordinates(depth[0], index, order=1, cval=np.inf) <= _NEAR_MM).mean())
