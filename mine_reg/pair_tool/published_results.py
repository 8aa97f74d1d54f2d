"""Published landmark errors on the public collections, each with its source; what could not be traced is left out."""

from typing import NamedTuple


class Published(NamedTuple):
    """One method on one collection.

    tre_mm : mean over the cases; the SD and the 30th percentile, where given, are over what ``note`` says, else cases
    snapped : whether mapped landmarks were rounded to voxels; None: the source does not say
    by_case : the TRE of each case, in the order of their numbers
    """

    collection: str
    method: str
    tre_mm: float
    source: str
    snapped: bool | None = None
    sd_mm: float | None = None
    p30_mm: float | None = None
    points: str = "landmarks"
    split: str = ""
    note: str = ""
    by_case: tuple[float, ...] = ()


PTV = (
    "Vishnevskiy et al., IEEE Trans Med Imaging 36(2):385-395, 2017, with the improvements and numbers of "
    "github.com/visva89/pTVreg, DIRandCOPD.md"
)
UNIGRADICON = (
    "Tian et al., uniGradICON, MICCAI 2024, arXiv:2403.05780; numbers of github.com/uncbiag/uniGradICON, "
    "evaluations/evaluation_results/"
)
REGNET = (
    "Sokooti et al., 3D Convolutional Neural Networks Image Registration Based on Efficient Supervised Learning from "
    "Artificial Deformations, arXiv:1908.10235, 2019, abstract"
)
ELASTIX = "pmc.ncbi.nlm.nih.gov/articles/PMC4229927, abstract (B-spline registration in elastix, parameter setting 2)"
RRN = (
    "He et al., Recursive Refinement Network for Deformable Lung Registration between Exhale and Inhale CT Scans, "
    "arXiv:2106.07608, 2021, abstract"
)
_UNSAID = "read in the abstract, which does not say how many landmarks, nor what the SD is over"
_OVER_ALL = "read in the abstract, which calls the SD 'over all cases' and does not say how many landmarks"
_THIN_SLICES = "scans of thinner slices than the collection's, masked to the lungs"
_NLST = {"collection": "l2r_nlst", "snapped": False, "split": "validation", "note": "10 cases, 0101 to 0110"}
_NLST_FILE = UNIGRADICON + "l2r_evaluation_results/l2r_nlst/{}.json, the challenge's own evaluation, version 2.1"

PUBLISHED = (
    Published(
        "dirlab_4dct",
        "pTV",
        0.92,
        PTV,
        snapped=True,
        by_case=(0.77, 0.75, 0.93, 1.26, 1.07, 0.83, 0.80, 1.01, 0.91, 0.84),
    ),
    Published("dirlab_4dct", "elastix, B-splines", 1.28, ELASTIX, sd_mm=1.10, note=_OVER_ALL),
    Published("dirlab_4dct", "RegNet", 1.86, REGNET, sd_mm=2.12, note=_UNSAID),
    Published(
        "dirlab_copdgene",
        "pTV",
        0.85,
        PTV,
        snapped=True,
        by_case=(0.71, 1.91, 0.77, 0.67, 0.71, 0.66, 0.75, 0.78, 0.64, 0.85),
    ),
    Published("dirlab_copdgene", "RRN", 0.83, RRN),
    Published(
        "dirlab_copdgene",
        "uniGradICON, 50 steps of its instance optimisation",
        1.43,
        UNIGRADICON + "COPDGene/unigradicon_io/results.csv",
        snapped=False,
        note=_THIN_SLICES,
        by_case=(1.15, 1.90, 1.25, 1.76, 1.39, 1.49, 1.28, 1.52, 1.18, 1.38),
    ),
    Published(
        "dirlab_copdgene",
        "uniGradICON",
        2.26,
        UNIGRADICON + "COPDGene/unigradicon/results.csv",
        snapped=False,
        note=_THIN_SLICES,
        by_case=(1.65, 3.98, 1.49, 2.86, 2.09, 2.47, 1.66, 2.13, 1.75, 2.50),
    ),
    Published(
        method="uniGradICON, instance optimisation",
        tre_mm=0.99,
        sd_mm=0.19,
        p30_mm=0.88,
        points="keypoints",
        source=_NLST_FILE.format("unigradicon_io"),
        **_NLST,
    ),
    Published(
        method="uniGradICON",
        tre_mm=1.25,
        sd_mm=0.28,
        p30_mm=1.11,
        points="keypoints",
        source=_NLST_FILE.format("unigradicon"),
        **_NLST,
    ),
    Published(
        method="ANTs",
        tre_mm=2.24,
        sd_mm=0.55,
        p30_mm=1.88,
        points="keypoints",
        source=_NLST_FILE.format("ants"),
        **_NLST,
    ),
    Published(
        method="uniGradICON, instance optimisation",
        tre_mm=1.77,
        sd_mm=0.31,
        p30_mm=1.55,
        source=_NLST_FILE.format("unigradicon_io"),
        **_NLST,
    ),
    Published(
        method="uniGradICON",
        tre_mm=2.07,
        sd_mm=0.43,
        p30_mm=1.84,
        source=_NLST_FILE.format("unigradicon"),
        **_NLST,
    ),
    Published(method="ANTs", tre_mm=3.04, sd_mm=0.64, p30_mm=2.69, source=_NLST_FILE.format("ants"), **_NLST),
)
