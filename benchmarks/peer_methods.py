"""The peers of benchmarks/peers.py beside ANTs: each registers a pair as its authors publish it for lungs, with masks.

A peer is a function of a `Case`; it returns the total displacement (1, 3, D, H, W) from fixed to moving points, in
voxels, channels z, y, x, and the seconds of the registration. Packages that are not among the study's are loaded when a
peer is called; `absent` says which one is lacking. None of them is changed or passed on here.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from mine_reg.evaluation.convexadam import LUNG_SETTINGS, run_convexadam
from mine_reg.images.geometry import displacement_voxels
from mine_reg.pairs.preprocessed import Pair

# elastix in EMPIRE10: Staring, Klein, Reiber, Niessen and Stoel, "Pulmonary image registration with elastix using a
# standard intensity-based algorithm", 2010; files Par0011 of github.com/SuperElastix/ElastixModelZoo. Affine, then
# B-splines of 10 mm without a mask, then of 5 mm with the fixed lungs, each on top of the last.
_ELASTIX = {
    "FixedInternalImagePixelType": "float",
    "MovingInternalImagePixelType": "float",
    "FixedImagePyramid": "FixedRecursiveImagePyramid",
    "MovingImagePyramid": "MovingRecursiveImagePyramid",
    "Interpolator": "BSplineInterpolator",
    "BSplineInterpolationOrder": "1",
    "Optimizer": "AdaptiveStochasticGradientDescent",
    "AutomaticParameterEstimation": "true",
    "UseAdaptiveStepSizes": "true",
    "ResampleInterpolator": "FinalBSplineInterpolator",
    "FinalBSplineInterpolationOrder": "3",
    "Resampler": "DefaultResampler",
    "WriteResultImage": "false",
    "HowToCombineTransforms": "Compose",
    "UseDirectionCosines": "true",
    "NumberOfResolutions": "5",
    "ImageSampler": "RandomCoordinate",
    "NumberOfSpatialSamples": "2000",
    "NewSamplesEveryIteration": "true",
    "UseRandomSampleRegion": "false",
    "MaximumNumberOfSamplingAttempts": "50",
    "RandomSeed": "121212",  # elastix's own
}
_SPLINES = {
    "Registration": "MultiMetricMultiResolutionRegistration",
    "Metric": ("AdvancedNormalizedCorrelation", "TransformBendingEnergyPenalty"),
    "Transform": "BSplineTransform",
    "UseRelativeWeights": "true",
    "Metric0RelativeWeight": "1.0",
    "Metric1RelativeWeight": "0.05",
}
ELASTIX_STEPS = {  # in their order
    "affine": {
        "Registration": "MultiResolutionRegistration",
        "Metric": "AdvancedNormalizedCorrelation",
        "Transform": "AffineTransform",
        "AutomaticScalesEstimation": "true",
        "AutomaticTransformInitialization": "true",
        "ImagePyramidSchedule": tuple(str(n) for n in (16, 8, 4, 2, 1) for _ in range(3)),
        "MaximumNumberOfIterations": "1000",
        "ErodeMask": "false",
    },
    "bspline1": _SPLINES
    | {
        "ImagePyramidSchedule": tuple(str(n) for n in (16, 8, 4, 2, 1) for _ in range(3)),
        "FinalGridSpacingInPhysicalUnits": ("10.0",) * 3,
        "GridSpacingSchedule": ("8.0", "8.0", "4.0", "2.0", "1.0"),
        "MaximumNumberOfIterations": "1000",
        "ErodeMask": "false",
    },
    "bspline2": _SPLINES
    | {
        "ImagePyramidSchedule": tuple(str(n) for n in (4, 3, 2, 1, 1) for _ in range(3)),
        "FinalGridSpacingInPhysicalUnits": ("5.0",) * 3,
        "GridSpacingSchedule": ("16.0", "8.0", "4.0", "2.0", "1.0"),
        "MaximumNumberOfIterations": "2000",
        "ErodeMask": ("false", "false", "true", "true", "true"),
    },
}


@dataclass
class Case:
    """One pair for a peer.

    files : NIfTI images in HU and masks: fixed, moving, fixed_mask, moving_mask
    affine : ANTs' affine part as total displacement, for peers that have none of their own
    unigradicon_weights : file of uniGradICON's weights, or None
    """

    pair: Pair
    files: dict[str, str]
    affine: Tensor
    threads: int
    unigradicon_weights: Path | None = None


def convexadam(case: Case) -> tuple[Tensor, float]:
    """convexAdam at its package's defaults, without masks, from ANTs' affine part."""
    return run_convexadam(case.pair.fixed[None], case.pair.moving[None], case.affine)


def convexadam_masked(case: Case) -> tuple[Tensor, float]:
    """convexAdam at its authors' settings for lungs (Learn2Reg 2021, task 2), with masks; see
    `mine_reg.evaluation.convexadam`."""
    masks = (case.pair.fixed_mask[None], case.pair.moving_mask[None])
    return run_convexadam(case.pair.fixed[None], case.pair.moving[None], case.affine, **LUNG_SETTINGS, masks=masks)


def elastix(case: Case) -> tuple[Tensor, float]:
    """elastix as its authors entered it in EMPIRE10 (`ELASTIX_STEPS`): its own affine step, the fixed mask at last."""
    import itk

    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(case.threads)
    fixed, moving = (itk.imread(case.files[name], itk.F) for name in ("fixed", "moving"))
    mask = itk.imread(case.files["fixed_mask"], itk.UC)
    start, before = time.perf_counter(), {}
    for name, own in ELASTIX_STEPS.items():
        parameters = itk.ParameterObject.New()
        values = {key: (value,) if isinstance(value, str) else value for key, value in (_ELASTIX | own).items()}
        parameters.AddParameterMap(values)
        masks = {"fixed_mask": mask} if name == "bspline2" else {}
        _, found = itk.elastix_registration_method(
            fixed, moving, parameter_object=parameters, log_to_console=False, **masks, **before
        )
        before = {"initial_transform_parameter_object": found}
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:  # where it also writes the field: mm, x, y, z, of all steps together
        field = itk.array_from_image(itk.transformix_deformation_field(moving, found, output_directory=folder))
    return _of_field(field, case.pair.image), seconds


def greedy(case: Case) -> tuple[Tensor, float]:
    """Greedy (Yushkevich) by the recipe of its documentation, affine and deformable by NCC; no masks."""
    return _greedy(case, "")


def greedy_masked(case: Case) -> tuple[Tensor, float]:
    """The same with the lungs of the fixed image as Greedy's gradient mask (-gm). Its authors publish no settings for
    lungs that we could find."""
    return _greedy(case, f"-gm {case.files['fixed_mask']} ")


def _greedy(case: Case, masks: str) -> tuple[Tensor, float]:
    """As in "Quick start" of greedy.readthedocs.io: -m NCC 2x2x2, -n 100x50x10, from coinciding image centres."""
    from picsl_greedy import Greedy3D

    run = Greedy3D()
    with tempfile.TemporaryDirectory() as folder:
        images = f"-i {case.files['fixed']} {case.files['moving']} {masks}"
        common = f"-m NCC 2x2x2 -n 100x50x10 -threads {case.threads} "
        start = time.perf_counter()
        run.execute(f"-a {images}{common}-ia-image-centers -o {folder}/affine.mat")
        run.execute(f"{images}{common}-it {folder}/affine.mat -o {folder}/warp.nii")
        seconds = time.perf_counter() - start
        run.execute(f"-rf {case.files['fixed']} -r {folder}/warp.nii {folder}/affine.mat -rc {folder}/both.nii")
        field = sitk.ReadImage(f"{folder}/both.nii")
    return _of_field(sitk.GetArrayFromImage(field), case.pair.image), seconds


def fireants(case: Case) -> tuple[Tensor, float]:
    """FireANTs by its authors' example for lungs: affine by the overlap of the masks, then greedy by local correlation.

    Jena, Chaudhari and Gee; page "Custom loss functions" of fireants.readthedocs.io, whose numbers these are. Its
    licence (Version 1.0, July 2025, of the Apache kind) restricts passing on its code, not using it.
    """
    from fireants.io import BatchedImages, Image
    from fireants.registration.affine import AffineRegistration
    from fireants.registration.greedy import GreedyRegistration

    class Overlap(torch.nn.Module):
        def forward(self, moved: Tensor, fixed: Tensor, *_args, **_options) -> Tensor:
            """One minus the soft Dice of two masks (B, 1, D, H, W)."""
            both, either = (moved * fixed).flatten(1).sum(1), (moved + fixed).flatten(1).sum(1)
            return 1 - (2 * both / either).mean()

    torch.set_num_threads(case.threads)
    batch = {name: BatchedImages(Image.load_file(path, device="cpu")) for name, path in case.files.items()}
    start = time.perf_counter()
    affine = AffineRegistration(
        [6, 4, 2, 1],
        [200, 100, 50, 20],
        batch["fixed_mask"],
        batch["moving_mask"],
        loss_type="custom",
        custom_loss=Overlap(),
        optimizer="Adam",
        optimizer_lr=3e-3,
        progress_bar=False,
    )
    affine.optimize()
    deformable = GreedyRegistration(
        scales=[6, 4, 2, 1],
        iterations=[200, 150, 75, 25],
        fixed_images=batch["fixed"],
        moving_images=batch["moving"],
        cc_kernel_size=5,
        deformation_type="compositive",
        max_tolerance_iters=1000,
        smooth_grad_sigma=6,
        smooth_warp_sigma=0.4,
        optimizer="Adam",
        optimizer_lr=0.25,
        init_affine=affine.get_affine_matrix().detach(),
        progress_bar=False,
    )
    deformable.optimize()
    seconds = time.perf_counter() - start
    points = deformable.get_warped_coordinates(batch["fixed"], batch["moving"])[0].detach()  # (D, H, W, 3): x, y, z
    points = points.flip(-1).movedim(-1, 0)  # in [-1, 1], the corners' centres, of the moving image
    size = torch.tensor(points.shape[1:]).reshape(3, 1, 1, 1)
    index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in points.shape[1:]), indexing="ij"))
    return ((points + 1) / 2 * (size - 1) - index)[None].float(), seconds


def unigradicon(case: Case) -> tuple[Tensor, float]:
    """uniGradICON in one shot, lungs masked as in its training on COPDGene."""
    return _unigradicon(case, None)


def unigradicon_refined(case: Case) -> tuple[Tensor, float]:
    """The same with 50 steps of instance optimisation, its command's default; hours without a GPU."""
    return _unigradicon(case, 50)


def _unigradicon(case: Case, steps: int | None) -> tuple[Tensor, float]:
    """Tian et al., "uniGradICON: a foundation model for medical image registration", 2024, package unigradicon (MIT):
    window -1000 to 1000 HU, LNCC; images times masks, as in ``unigradicon-register --input_masking``."""
    import itk
    from icon_registration.itk_wrapper import register_pair
    from unigradicon import get_unigradicon, preprocess

    torch.set_num_threads(case.threads)
    network = get_unigradicon(weights_location=str(case.unigradicon_weights))
    images = []
    for name in ("moving", "fixed"):
        image, mask = itk.imread(case.files[name], itk.F), itk.imread(case.files[f"{name}_mask"], itk.SS)
        images.append(preprocess(image, "ct", mask))
    start = time.perf_counter()
    to_moving, _ = register_pair(network, *images, finetune_steps=steps)  # of points of the fixed image
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        itk.transformwrite([to_moving], f"{folder}/transform.h5")
        transform = sitk.ReadTransform(f"{folder}/transform.h5")
    return displacement_voxels(transform, case.pair.image, case.pair.image), seconds


def _of_field(millimetres: np.ndarray, grid: sitk.Image) -> Tensor:
    """A field (D, H, W, 3) of displacements x, y, z in mm on ``grid``, as the study's displacement in voxels."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(millimetres, np.float64).squeeze(), isVector=True)
    image.CopyInformation(grid)
    return displacement_voxels(sitk.DisplacementFieldTransform(image), grid, grid)


# each with the module that it needs and how to get that, "" where the study has it
PEERS: dict[str, tuple[Callable[[Case], tuple[Tensor, float]], str, str]] = {
    "convexadam": (convexadam, "", ""),
    "convexadam_masked": (convexadam_masked, "", ""),
    "elastix": (elastix, "itk.itkElastixRegistrationMethodPython", "pip install itk-elastix"),
    "greedy": (greedy, "picsl_greedy", "pip install picsl-greedy"),
    "greedy_masked": (greedy_masked, "picsl_greedy", "pip install picsl-greedy"),
    "fireants": (fireants, "fireants", "pip install --no-deps fireants hydra-core omegaconf antlr4-python3-runtime"),
    "unigradicon": (unigradicon, "unigradicon", "pip install unigradicon"),
    "unigradicon_refined": (unigradicon_refined, "unigradicon", "pip install unigradicon"),
}


def absent(name: str, unigradicon_weights: Path | None) -> str:
    """Why the peer cannot run here and what to do, in one sentence; "" when it can."""
    _, module, advice = PEERS[name]
    try:
        found = not module or find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        return f"not installed; run `{advice}`"
    if name.startswith("unigradicon") and not (unigradicon_weights and unigradicon_weights.is_file()):
        return "no weights; download them from github.com/uncbiag/uniGradICON and give --unigradicon-weights FILE"
    return ""
