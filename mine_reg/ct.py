"""A chest CT and its lung mask as files give them: HU, nothing below air, the mask on the image's own grid."""

from pathlib import Path

import SimpleITK as sitk

from mine_reg import itk

AIR_HU = -1024  # exports hold down to -3024 HU outside the field of view
BODY_HU = -500  # between air, or lung, and soft tissue


def read_clipped(path: str | Path, image: sitk.Image | None = None) -> sitk.Image:
    """A CT as float32 HU, nothing below air; ``image`` is what ``itk.read_image`` has made of ``path`` already.

    Raises what ``itk.read_image`` raises, and ValueError when no voxel is denser than lung.
    """
    image = sitk.Clamp(image or itk.read_image(path), sitk.sitkFloat32, AIR_HU, 32767)
    if not sitk.GetArrayViewFromImage(image).max() >= BODY_HU:
        raise ValueError(f"{path} has no voxel above {BODY_HU} HU, so it shows no body; give a CT in HU")
    return image


def read_mask(path: str | Path, image: sitk.Image, name: str, owner: str | Path) -> sitk.Image:
    """A mask as float32 0 or 1 on the grid of ``image``; every label other than 0 (left and right lung, lobes) is lung.

    name, owner : what messages call the mask and the image. Raises what ``itk.read_image`` raises, and ValueError when
    the mask is on another grid or does not tell lung from the rest.
    """
    mask = itk.read_image(path)
    if not itk.same_grid(mask, image):
        raise ValueError(f"{name} {path} ({_geometry(mask)}) is on another grid than {owner} "
                         f"({_geometry(image)}); resample it to its image")
    mask = sitk.Cast(mask != 0, sitk.sitkFloat32)
    array = sitk.GetArrayViewFromImage(mask)
    if not array.any():
        raise ValueError(f"{name} {path} is empty; it must mark the lungs with values other than 0")
    if array.all():
        raise ValueError(f"{name} {path} marks every voxel; it must mark the lungs only, and be 0 elsewhere")
    mask.CopyInformation(image)  # headers may differ by rounding
    return mask


def _geometry(image: sitk.Image) -> str:
    def triple(values):
        return " x ".join(f"{value:g}" for value in values)
    return f"{triple(image.GetSize())} voxels of {triple(image.GetSpacing())} mm from {triple(image.GetOrigin())}"
