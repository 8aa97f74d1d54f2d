"""An image through affine maps before and after one displacement field, in a single pass over the output.

What ITK's resampling gives, voxel by voxel, but faster: ITK asks every transform of a composite anew for each voxel.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from numba import njit

_NO_FIELD = np.zeros((1, 1, 1, 3), np.float32)


def _compiled(function: Callable) -> Callable:
    """Compiled at its first call, once for all processes where what is compiled can be kept."""
    # products and sums may be fused; NaN is still told from a number
    how = {"nogil": True, "fastmath": {"contract", "nsz", "arcp", "reassoc"}}
    try:
        return njit(cache=True, **how)(function)
    except RuntimeError:  # neither the package's folder nor the user's can be written to
        return njit(**how)(function)


class Chain(NamedTuple):
    """x -> after(y + u(y)) with y = before(x); affine maps (3, 4) in mm; u None for none."""

    before: np.ndarray
    field: sitk.Image | None
    after: np.ndarray


def chain_of(transform: sitk.Transform) -> Chain | None:
    """A transform as such a chain; None where it is of another form."""
    before, field, after = np.eye(3, 4), None, np.eye(3, 4)
    for part in _in_order(transform):
        if part.IsLinear():
            if field is None:
                before = _then(_matrix(part), before)
            else:
                after = _then(_matrix(part), after)
        elif part.GetTransformEnum() == sitk.sitkDisplacementField and field is None:
            field = sitk.DisplacementFieldTransform(part).GetDisplacementField()
        else:
            return None
    return Chain(before, field, after)


def warp(image: sitk.Image, fixed: sitk.Image, chain: Chain, label: bool, outside: float) -> sitk.Image:
    """``image`` on the grid of ``fixed``, of its own pixel type, whole numbers rounded: as `sitk.Resample` does it, by
    nearest neighbours for a label, else linearly, with ``outside`` where the image ends."""
    voxels = sitk.GetArrayViewFromImage(image)
    out = np.empty(fixed.GetSize()[::-1], voxels.dtype)
    to_mm = _then(chain.before, _grid(fixed))  # from voxels of the output to where the field is asked
    field, to_field = _NO_FIELD, np.eye(3, 4)
    if chain.field is not None:
        field = sitk.GetArrayViewFromImage(chain.field)
        to_field = _then(_inverse(_grid(chain.field)), to_mm)
    to_moving = _then(_inverse(_grid(image)), chain.after)
    along = to_moving[:, :3]  # a displacement in mm, in voxels of the image
    field = np.matmul(field, along.T, dtype=np.float32, casting="same_kind")
    maps = _then(to_moving, to_mm), to_field

    def part(slices: range) -> None:
        _fill(voxels, out, slices.start, slices.stop, *maps, field, chain.field is not None, label, outside)

    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, _parts(len(out), 4 * threads)))
    result = sitk.GetImageFromArray(out)
    result.CopyInformation(fixed)
    return result


@_compiled
def _fill(image, out, first, last, to_image, to_field, field, has_field, label, outside):
    """Slices first to last of ``out``. The maps go from its voxels (x, y, z) to those of the image and the field, whose
    displacements are in voxels of the image."""
    depth, height, width = image.shape
    fd, fh, fw = field.shape[0], field.shape[1], field.shape[2]
    whole = image.dtype.type(0.5) == image.dtype.type(0)  # the type has no fractions
    # where rows of both grids are parallel, those of the field are interpolated once for a row of the output
    straight = abs(to_field[1, 0]) * out.shape[2] < 1e-6 and abs(to_field[2, 0]) * out.shape[2] < 1e-6
    line = np.zeros((fw, 3))
    for k in range(first, last):
        for j in range(out.shape[1]):
            xj, yj, zj = _row(to_image, j, k)
            aj, bj, cj = _row(to_field, j, k)
            moves = has_field and (not straight or (-0.5 <= bj < fh - 0.5 and -0.5 <= cj < fd - 0.5))
            if moves and straight:
                for a in range(fw):
                    line[a, 0], line[a, 1], line[a, 2] = _displacement(field, a, a, 0.0, bj, cj)
            for i in range(out.shape[2]):
                x, y, z = xj + to_image[0, 0] * i, yj + to_image[1, 0] * i, zj + to_image[2, 0] * i
                if moves:
                    a = aj + to_field[0, 0] * i
                    if -0.5 <= a < fw - 0.5:
                        a0, a1, da = _around(a, fw)
                        if straight:
                            x += line[a0, 0] + da * (line[a1, 0] - line[a0, 0])
                            y += line[a0, 1] + da * (line[a1, 1] - line[a0, 1])
                            z += line[a0, 2] + da * (line[a1, 2] - line[a0, 2])
                        else:
                            b, c = bj + to_field[1, 0] * i, cj + to_field[2, 0] * i
                            if -0.5 <= b < fh - 0.5 and -0.5 <= c < fd - 0.5:
                                dx, dy, dz = _displacement(field, a0, a1, da, b, c)
                                x, y, z = x + dx, y + dy, z + dz
                if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5 and -0.5 <= z < depth - 0.5):
                    out[k, j, i] = outside
                elif label:
                    out[k, j, i] = image[_below(z + 0.5), _below(y + 0.5), _below(x + 0.5)]
                else:
                    x0, x1, dx = _around(x, width)
                    y0, y1, dy = _around(y, height)
                    z0, z1, dz = _around(z, depth)
                    front = _between(image, z0, y0, x0, x1, dx)
                    front += dy * (_between(image, z0, y1, x0, x1, dx) - front)
                    back = _between(image, z1, y0, x0, x1, dx)
                    back += dy * (_between(image, z1, y1, x0, x1, dx) - back)
                    value = front + dz * (back - front)
                    out[k, j, i] = np.floor(value + 0.5) if whole else value


@_compiled
def _displacement(field, a0, a1, da, b, c):
    """Of the field at (a, b, c), with a between a0 and a1."""
    b0, b1, db = _around(b, field.shape[1])
    c0, c1, dc = _around(c, field.shape[0])
    rows = b0, b1, db, c0, c1, dc
    return (
        (1 - da) * _in_column(field, 0, a0, rows) + da * _in_column(field, 0, a1, rows),
        (1 - da) * _in_column(field, 1, a0, rows) + da * _in_column(field, 1, a1, rows),
        (1 - da) * _in_column(field, 2, a0, rows) + da * _in_column(field, 2, a1, rows),
    )


@_compiled
def _in_column(field, n, a, rows):
    """Component ``n`` of the field at its column ``a``, between rows and slices."""
    b0, b1, db, c0, c1, dc = rows
    front = field[c0, b0, a, n] + db * (field[c0, b1, a, n] - field[c0, b0, a, n])
    back = field[c1, b0, a, n] + db * (field[c1, b1, a, n] - field[c1, b0, a, n])
    return front + dc * (back - front)


@_compiled
def _below(place):
    return np.uint64(np.floor(place))


@_compiled
def _row(affine, j, k):
    """Where the row of voxels (0, j, k) begins."""
    return (
        affine[0, 1] * j + affine[0, 2] * k + affine[0, 3],
        affine[1, 1] * j + affine[1, 2] * k + affine[1, 3],
        affine[2, 1] * j + affine[2, 2] * k + affine[2, 3],
    )


@_compiled
def _around(place, count):
    """Voxels on both sides of a place, both within the grid, and the share of the upper one; without a sign, so that
    nobody looks whether they count from the end."""
    low = np.int64(np.floor(place))
    return np.uint64(max(low, 0)), np.uint64(min(low + 1, count - 1)), place - low


@_compiled
def _between(image, z, y, x0, x1, dx):
    one, other = float(image[z, y, x0]), float(image[z, y, x1])
    return one + dx * (other - one)


def _in_order(transform: sitk.Transform) -> Iterator[sitk.Transform]:
    """The parts of a transform, the first one that a point meets first."""
    if transform.GetTransformEnum() == sitk.sitkComposite:
        composite = sitk.CompositeTransform(transform)
        for number in reversed(range(composite.GetNumberOfTransforms())):
            yield from _in_order(composite.GetNthTransform(number))
    else:
        yield transform.Downcast()


def _matrix(transform: sitk.Transform) -> np.ndarray:
    """(3, 4) of a linear transform."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(axis)) - origin for axis in np.eye(3).tolist()]
    return np.column_stack([*columns, origin])


def _grid(image: sitk.Image) -> np.ndarray:
    """(3, 4): from voxels, x, y, z, to mm."""
    return np.column_stack([np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing(), image.GetOrigin()])


def _then(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(3, 4) of x -> second(first(x))."""
    return np.column_stack([second[:, :3] @ first[:, :3], second[:, :3] @ first[:, 3] + second[:, 3]])


def _inverse(affine: np.ndarray) -> np.ndarray:
    back = np.linalg.inv(affine[:, :3])
    return np.column_stack([back, -back @ affine[:, 3]])


def _parts(count: int, parts: int) -> list[range]:
    ends = np.linspace(0, count, min(parts, count) + 1).astype(int)
    return [range(a, b) for a, b in pairwise(ends)]
