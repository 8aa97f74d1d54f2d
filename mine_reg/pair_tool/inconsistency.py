"""How far a point comes back from where it went, through the registration one way and the other way round.

With T_f from fixed to moving points and T_b, of the same pair registered the other way round, from moving to fixed
ones, two right answers give T_b(T_f(x)) = x. What is left, in mm, is a sign of error where nobody knows the truth. It
is no bound: both may be wrong alike.
"""

import numpy as np
import SimpleITK as sitk

from mine_reg.images.geometry import on_grid


def inconsistency_map(forward: sitk.Transform, backward: sitk.Transform, grid: sitk.Image) -> sitk.Image:
    """|T_b(T_f(x)) - x| in mm at the voxel centres of ``grid``, float32.

    forward, backward : T_f and T_b
    grid : in the space of the fixed image, e.g. its working grid; only its geometry counts
    """
    there_and_back = sitk.CompositeTransform([backward, forward])  # the transform added last acts first
    field = sitk.TransformToDisplacementField(
        there_and_back,
        sitk.sitkVectorFloat32,
        grid.GetSize(),
        grid.GetOrigin(),
        grid.GetSpacing(),
        grid.GetDirection(),
    )
    return sitk.VectorMagnitude(field)


def inconsistency_within(inconsistency: sitk.Image, lungs: sitk.Image) -> dict[str, float]:
    """``inconsistency_mm``, the median, and ``inconsistency95_mm``, the 95th percentile, of a map within the lungs.

    lungs : 0 and 1 in the space of the fixed image, on any grid

    Raises ValueError when the lungs mark nothing on the map's grid.
    """
    inside = sitk.GetArrayFromImage(on_grid(lungs, inconsistency, 0)) >= 0.5
    if not inside.any():
        raise ValueError("the lungs mark nothing on the grid of the inconsistency; give lungs of the fixed image")
    median, high = np.percentile(sitk.GetArrayViewFromImage(inconsistency)[inside], [50, 95])
    return {"inconsistency_mm": float(median), "inconsistency95_mm": float(high)}
