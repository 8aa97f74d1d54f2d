"""Whether the moving image fits better turned or mirrored: headers can name the wrong axes."""

import numpy as np
import SimpleITK as sitk

from mine_reg.images.geometry import voxels_to_points
from mine_reg.pair_tool.inputs import Images, inside, shown_there
from mine_reg.pair_tool.start import AROUND_MM, normalised_information
from mine_reg.pair_tool.working_grid import scaled

_AXES = ("left-right", "front-back", "head-feet")
_GAIN = 1.5  # of the agreement, from which on it is worth a word
_LEAST_AGREEMENT = 0.1  # below it nothing fits
_LEAST_OVERLAP = 0.3


def doubt_about_orientation(images: Images, agreement: float) -> str | None:
    """A sentence when the moving image, turned by a right angle or mirrored about the middle of its body, agrees
    clearly better with the fixed one than it does after the best shift, whose ``agreement`` (see `start.Comparison`)
    is given."""
    grid = sitk.Shrink(images.grid, [2, 2, 2])
    fixed = scaled(images.seen["fixed"], grid)[0].numpy()
    region = inside(images.regions["fixed"], grid, AROUND_MM) & shown_there(images.shown["fixed"], grid)
    found = {}
    for what, turn in turns().items():
        transform = _about_the_middles(turn, images)
        both = region & shown_there(images.shown["moving"], grid, transform)
        if both.sum() > _LEAST_OVERLAP * region.sum():
            moving = scaled(images.seen["moving"], grid, transform)[0].numpy()
            found[what] = normalised_information(fixed[both], moving[both])
    best = max(found, key=found.get, default=None)
    if best is None or found[best] < max(_LEAST_AGREEMENT, _GAIN * agreement):
        return None
    return f"the moving image fits better when it is {best}; check the orientation in its header"


def turns() -> dict[str, np.ndarray]:
    """Matrices (3, 3) of right angles about each axis and of mirrors, x, y, z in LPS, by what they do."""
    found = {}
    for axis, name in enumerate(_AXES):
        a, b = (other for other in range(3) if other != axis)
        quarter = np.eye(3)
        quarter[[a, b]] = 0
        quarter[a, b], quarter[b, a] = -1, 1
        for degrees, matrix in ((90, quarter), (180, quarter @ quarter), (270, quarter.T)):
            found[f"turned by {degrees} degrees about the {name} axis"] = matrix
        found[f"mirrored {name}"] = np.diag([-1.0 if other == axis else 1.0 for other in range(3)])
    return found


def _about_the_middles(turn: np.ndarray, images: Images) -> sitk.AffineTransform:
    """From fixed to moving points, so that the middles of the bodies meet."""
    fixed, moving = (_middle(images.bodies[role]) for role in ("fixed", "moving"))
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(turn.ravel().tolist())
    transform.SetTranslation((moving - turn @ fixed).tolist())
    return transform


def _middle(mask: sitk.Image) -> np.ndarray:
    return voxels_to_points(np.argwhere(sitk.GetArrayViewFromImage(mask) > 0), mask).numpy().mean(0)
