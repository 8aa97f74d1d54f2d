"""The methods that benchmarks/speed.py measures. Each makes, from a pair of tensors (1, 1, D, H, W) in [0, 1], a
function without arguments that registers it once."""

import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

LABELS = {
    "register": "mine_reg.register",
    "command": "mine-reg register",
    "miregnet": "AffineNet and DeformNet",
    "voxelmorph": "VoxelMorph (MONAI)",
    "elastix": "elastix",
    "convexadam": "convexAdam",
    "ants": "ANTs SyNRA",
}  # in the figure


def registration(method: str, folder: Path, threads: int):
    """The method for the pair in ``folder/pair.pt``; it may write to the folder."""
    torch.set_num_threads(threads)
    return {
        "register": _register,
        "command": _command,
        "miregnet": _miregnet,
        "voxelmorph": _voxelmorph,
        "elastix": _elastix,
        "convexadam": _convexadam,
        "ants": _ants,
    }[method](*torch.load(folder / "pair.pt", weights_only=True), folder)


def _spacing(image: Tensor) -> float:
    return 320 / image.shape[2]


def _cts(fixed: Tensor, moving: Tensor) -> list:
    """The images in HU, 320 mm wide."""
    from mine_reg.images.geometry import to_image
    from mine_reg.synthetic.phantom import grid_origin

    spacing = _spacing(fixed)
    return [
        to_image(image[0, 0] * 1500 - 1000, (spacing,) * 3, grid_origin(fixed.shape[2:], spacing), dtype="int16")
        for image in (fixed, moving)
    ]


def _register(fixed: Tensor, moving: Tensor, _folder: Path):
    from mine_reg import register

    images = _cts(fixed, moving)
    return lambda: register(*images, device="cpu")


def _command(fixed: Tensor, moving: Tensor, folder: Path):
    import SimpleITK as sitk

    files = [str(folder / f"{name}.nii.gz") for name in ("fixed", "moving")]
    for image, file in zip(_cts(fixed, moving), files, strict=True):
        sitk.WriteImage(image, file, True)
    command = [
        Path(sys.executable).with_name("mine-reg"),
        "register",
        *files,
        "--out",
        folder / "registered",
        "--device",
        "cpu",
    ]
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _miregnet(fixed: Tensor, moving: Tensor, _folder: Path):
    from mine_reg.models import AffineNet, DeformNet
    from mine_reg.registration import Registration
    from mine_reg.settings import settings
    from mine_reg.spatial import resample
    from mine_reg.training.weights import make_network

    network = Registration(
        *(
            make_network(kind, vars(settings(name)))
            for kind, name in ((AffineNet, "affinenet"), (DeformNet, "deformnet"))
        )
    ).eval()

    @torch.inference_mode()
    def run():
        theta, dvf = network(fixed, moving)
        return resample(moving, theta, dvf)

    return run


def _voxelmorph(fixed: Tensor, moving: Tensor, _folder: Path):
    from monai.networks.nets import VoxelMorph, VoxelMorphUNet

    backbone = VoxelMorphUNet(3, 2, 32, (16, 32, 32, 32, 32, 32), (16, 16))
    network = VoxelMorph(backbone=backbone, integration_steps=7, half_res=True, spatial_dims=3).eval()

    @torch.inference_mode()
    def run():
        return network(moving, fixed)

    return run


def _elastix(fixed: Tensor, moving: Tensor, _folder: Path):
    import itk

    images = [itk.image_from_array(image[0, 0].numpy()) for image in (fixed, moving)]
    for image in images:
        image.SetSpacing([_spacing(fixed)] * 3)
    steps = itk.ParameterObject.New()
    for step in ("rigid", "affine", "bspline"):
        steps.AddParameterMap(steps.GetDefaultParameterMap(step))
    return lambda: itk.elastix_registration_method(*images, parameter_object=steps, log_to_console=False)


def _convexadam(fixed: Tensor, moving: Tensor, _folder: Path):
    from mine_reg.evaluation.convexadam import run_convexadam
    from mine_reg.spatial import warp

    nothing = torch.zeros(1, 3, *fixed.shape[2:])
    return lambda: warp(moving, run_convexadam(fixed, moving, nothing)[0])


def _ants(fixed: Tensor, moving: Tensor, _folder: Path):
    import ants

    images = [ants.from_numpy(image[0, 0].numpy().transpose(2, 1, 0)) for image in (fixed, moving)]
    return lambda: ants.registration(*images, "SyNRA", reg_iterations=(40, 20, 0))
