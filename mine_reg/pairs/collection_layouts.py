"""What public collections of lung CT look like: files, sizes and conventions, as their owners distribute them.

Terms of use, sources, and what about them could not be confirmed: data_manifests/COLLECTIONS.md.
"""

from typing import NamedTuple


class Case(NamedTuple):
    """The grid of a volume that has no header."""

    size: tuple[int, int, int]  # voxels, x, y, z
    spacing_mm: tuple[float, float, float]  # x, y, z


class RawSet(NamedTuple):
    """Volumes without a header (int16, little endian, x fastest), and landmarks that count voxels from 1."""

    image: str  # pattern of the file names, in any folder and in upper or lower case
    points: str
    fixed: str  # what stands for {phase}: customarily inspiration is kept and expiration aligned with it
    moving: str
    cases: dict[int, Case]
    landmarks: int = 300
    hu_offset: int = 1024  # stored value minus HU
    direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, -1)  # LPS; the first slice is the uppermost


class Collection(NamedTuple):
    """One public collection; its kind is Learn2Reg (``task``), DIR-Lab (``raw``) or, with neither, EMPIRE10."""

    layout: str  # in words, for messages
    task: str = ""  # of Learn2Reg
    raw: RawSet | None = None


def _cases(first: int, in_plane: int, slices: tuple[int, ...], mm: tuple[float, ...]) -> dict[int, Case]:
    """Cases from number ``first`` on, square in plane, by their numbers of slices of 2.5 mm and in-plane spacings."""
    return {
        number: Case((in_plane, in_plane, count), (side, side, 2.5))
        for number, (count, side) in enumerate(zip(slices, mm, strict=True), first)
    }


_L2R_LAYOUT = (
    "{0}_dataset.json beside imagesTr and masksTr (imagesTs and masksTs for test pairs), and for points "
    "landmarksTr or keypointsTr"
)
COLLECTIONS = {
    "l2r_lungct": Collection(_L2R_LAYOUT.format("LungCT"), "LungCT"),
    "l2r_nlst": Collection(_L2R_LAYOUT.format("NLST"), "NLST"),
    "dirlab_4dct": Collection(
        "caseN_T00*.img, caseN_T50*.img, caseN_*300_T00_xyz.txt and caseN_*300_T50_xyz.txt in any subfolders",
        raw=RawSet(
            image="case{case}_{phase}*.img",
            points="case{case}_*300_{phase}_xyz.txt",
            fixed="T00",
            moving="T50",
            cases=_cases(1, 256, (94, 112, 104, 99, 106), (0.97, 1.16, 1.15, 1.13, 1.10))
            | _cases(6, 512, (128, 136, 128, 128, 120), (0.97,) * 5),
        ),
    ),
    "dirlab_copdgene": Collection(
        "copdN_iBHCT.img, copdN_eBHCT.img, copdN_300_iBH_xyz_r1.txt and copdN_300_eBH_xyz_r1.txt in any subfolders",
        raw=RawSet(
            image="copd{case}_{phase}CT.img",
            points="copd{case}_300_{phase}_xyz_r1.txt",
            fixed="iBH",
            moving="eBH",
            cases=_cases(
                1,
                512,
                (121, 102, 126, 126, 131, 119, 112, 115, 116, 135),
                (0.625, 0.645, 0.652, 0.590, 0.647, 0.633, 0.625, 0.586, 0.664, 0.742),
            ),
        ),
    ),
    "empire10": Collection(
        "scans/NN_Fixed.mhd and scans/NN_Moving.mhd with their data files, and masks of the same names in lungMasks"
    ),
}
# when a pair is listed under several keys, the last one counts, so that nothing is both trained and tested on
L2R_SPLITS = {"training_paired_images": "train", "registration_val": "validation", "registration_test": "test"}
