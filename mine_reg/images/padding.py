"""Where a CT shows nothing: what was filled in around or beyond the scan."""

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import label

from mine_reg.images.ct import doubt_about_hu
from mine_reg.images.hounsfield import AIR_HU

_AIR = -900.0  # HU; what is filled with less reads as air anyway
_LEAST = 0.01  # of the voxels
_SAMPLE = 1_000_000  # voxels, enough for a percentile
_SHARE = 0.1  # of the voxels above air at the border; of tissue, one value makes up one or two percent


def without_padding(image: sitk.Image) -> tuple[sitk.Image, sitk.Image | None, float | None]:
    """A CT in HU with air where it was padded with something denser; 1 where it shows anything, else 0, float32; and
    the value it was padded with. The image itself, None and None where it was not.

    Padding is one and the same value in a component that touches the border and is at least 1 % of the voxels: no
    tissue is as even as that.
    """
    array = sitk.GetArrayViewFromImage(image)
    value = _most_common(np.concatenate([np.moveaxis(array, axis, 0)[end].ravel() for axis in range(3)
                                         for end in (0, -1)]))  # fmt: skip
    if value is None:
        return image, None, None
    components, count = label(array == value)
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    ends = {int(c) for axis in range(3) for end in (0, -1) for c in np.unique(np.moveaxis(components, axis, 0)[end])}
    padding = [c for c in ends - {0} if sizes[c] >= _LEAST * array.size]
    if not padding:
        return image, None, None
    padded = np.isin(components, padding)
    bare = np.where(padded, np.float32(AIR_HU), array)
    images = []
    for values in (bare, (~padded).astype(np.float32)):
        new = sitk.GetImageFromArray(values)
        new.CopyInformation(image)
        images.append(new)
    return *images, value


def _most_common(values: np.ndarray) -> float | None:
    """The most common value above air, None when it is no more common than a value of tissue."""
    values = values[values > _AIR]
    if not len(values):
        return None
    found, counts = np.unique(values, return_counts=True)
    return float(found[counts.argmax()]) if counts.max() > _SHARE * len(values) else None


def doubt_about_values(image: sitk.Image, lungs: sitk.Image | None) -> str | None:
    """As `ct.doubt_about_hu`, of what a CT shows: what lies below all else, be it a rim of -2000 or one voxel, does not
    make raw values look like HU."""
    array, low = sitk.GetArrayFromImage(image), lowest_shown(image)
    raised = sitk.GetImageFromArray(np.maximum(array, array.dtype.type(low)))
    raised.CopyInformation(image)
    return doubt_about_hu(raised, lungs)


def lowest_shown(image: sitk.Image) -> float:
    """The lowest value of an image that is no padding: its minimum, or, where that is negative, the 0.1th percentile of
    what lies above."""
    array = sitk.GetArrayViewFromImage(image)
    if array.min() >= 0:
        return float(array.min())
    above = array[array > array.min()][:: max(1, array.size // _SAMPLE)]
    return float(np.percentile(above, 0.1)) if above.size else float(array.min())
