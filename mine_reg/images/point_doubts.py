"""Whether corresponding points look as if their rows, roles or coordinate systems were mixed up."""

import numpy as np
import SimpleITK as sitk

from mine_reg.images.transforms import map_points

_MOST = 300  # points that are looked at
_FEWEST = 4
_BETTER, _BETTER_MM = 0.5, 2.0  # what fits far better: half the distance, and mm less
_UNRELATED = 0.8  # of the distance of rows drawn at random
_RAS = np.array([-1.0, -1.0, 1.0])


def doubts_about_points(fixed: np.ndarray, moving: np.ndarray, transform: sitk.Transform | None = None) -> list[str]:
    """Sentences about points (N, 3), LPS mm, that fit far better in another way, none when they fit as they are.

    transform : from fixed to moving points; without one, distances are between the points as they lie, each about the
        centre of its own, so that neither swapped roles nor two files in RAS can be seen
    """
    if len(fixed) < _FEWEST:
        return []
    chosen = np.unique(np.linspace(0, len(fixed) - 1, min(_MOST, len(fixed))).astype(int))
    backwards = moving[::-1][chosen]
    fixed, moving = fixed[chosen], moving[chosen]
    other_ways = [
        ("the rows of one of the point files are in reverse order", fixed, backwards),
        ("one of the point files is in RAS, the other in LPS", fixed * _RAS, moving),
        ("one of the point files is in RAS, the other in LPS", fixed, moving * _RAS),
    ]
    if transform is not None:
        other_ways += [
            ("both point files are in RAS", fixed * _RAS, moving * _RAS),
            ("fixed and moving points are swapped", moving, fixed),
        ]
    given = _mean_distance(fixed, moving, transform)
    least, said = min((_mean_distance(*points, transform), said) for said, *points in other_ways)
    if least < _BETTER * given and given - least > _BETTER_MM:
        return [f"it looks as if {said}: their mean distance would be {least:.1f} mm, and is {given:.1f} mm as given"]
    if len(fixed) >= 2 * _FEWEST and given > _UNRELATED * (random := _mean_of_all(fixed, moving, transform)):
        return [
            f"row i of one point file does not look like the partner of row i of the other: their mean distance is "
            f"{given:.1f} mm, and {random:.1f} mm between rows drawn at random"
        ]
    return []


def _mapped(fixed: np.ndarray, moving: np.ndarray, transform: sitk.Transform | None) -> tuple[np.ndarray, np.ndarray]:
    if transform is None:
        return fixed - fixed.mean(0), moving - moving.mean(0)
    return map_points(transform, fixed), moving


def _mean_distance(fixed: np.ndarray, moving: np.ndarray, transform: sitk.Transform | None) -> float:
    fixed, moving = _mapped(fixed, moving, transform)
    return float(np.linalg.norm(fixed - moving, axis=1).mean())


def _mean_of_all(fixed: np.ndarray, moving: np.ndarray, transform: sitk.Transform | None) -> float:
    fixed, moving = _mapped(fixed, moving, transform)
    return float(np.linalg.norm(fixed[:, None] - moving[None], axis=2).mean())
