"""Whether a registration can be believed, from what can be known without the truth."""

from mine_reg.images.masks import LUNGS_L

TRUSTED, DOUBTFUL, FAILED = VERDICTS = ("trusted", "doubtful", "failed")
EXIT_CODES = {TRUSTED: 0, DOUBTFUL: 3, FAILED: 4}  # of `mine-reg` with --strict

# what doubts rest on, chosen on pairs of known truth, many of them made to fail: benchmarks/verdict.py
_INCONSISTENCY_MM = (9.0, 15.0)  # median within the region: doubtful, failed
_AGREEMENT = (0.32, 0.18)  # share of mutual information in the entropy: doubtful, failed
_LUNG_OVERLAP = (0.80, 0.65)  # DSC of the regions where both images show something: doubtful, failed
_FOLDING_PERCENT = (0.1, 1.0)
_OVERLAP = (0.5, 0.3)  # share of the fixed region that the moving image shows
_SAME = 0.65  # agreement of one image twice, with noise between; other pairs reach 0.55: benchmarks/hard_pairs.py
_START_MM = 30.0  # a shift that is worth a word


def verdict(report: dict) -> tuple[str, list[str]]:
    """One of VERDICTS, and the sentences why; none for a result that nothing speaks against.

    report : ``inconsistency_mm``, ``agreement``, ``region_dsc`` (None where the regions are not of one kind),
        ``folding_percent``, ``overlap``, ``start_mm``, ``mutual_information_before`` and ``_after``, and by role
        ``regions`` (mask, lungs or body) and ``lungs_l`` (litres; None where no lungs were looked for or found)
    """
    found = [
        _above(report["inconsistency_mm"], _INCONSISTENCY_MM, "forward and backward registration differ by {:.1f} mm"),
        _above(report["folding_percent"], _FOLDING_PERCENT, "the transform folds space at {:.2f} % of the voxels"),
        _below(report["agreement"], _AGREEMENT, "the registered images agree in {:.2f} of their information only"),
        _below(report["overlap"], _OVERLAP, "the moving image shows only {:.2f} of the region to be registered"),
    ]
    if report["region_dsc"] is not None:
        found.append(_below(report["region_dsc"], _LUNG_OVERLAP, "the registered lungs overlap with a DSC of {:.2f}"))
    before, after = report["mutual_information_before"], report["mutual_information_after"]
    if not after >= before or (after == before and report["agreement"] < _SAME):
        found.append((1, "mutual information did not rise; look at the result before you use it"))
    if without := [role for role, kind in report["regions"].items() if kind == "body"]:
        sentence = f"without lungs in the {' and '.join(without)} image nothing tells whether lungs were registered"
        found.append((1, sentence))
    for role, litres in report["lungs_l"].items():
        if litres is not None and not LUNGS_L[0] <= litres <= LUNGS_L[1]:
            sentence = f"the lungs of the {role} image have {litres:.3g} litres; check the size of its voxels"
            found.append((1, sentence))
    worst = max((level for level, _ in found), default=0)
    sentences = [sentence for level, sentence in found if level]
    if sum(v * v for v in report["start_mm"]) ** 0.5 > _START_MM:
        sentences.append(f"the images lay far apart, so the moving one was first shifted by {report['start_mm']} mm")
    return VERDICTS[worst], sentences


def _above(value: float, limits: tuple[float, float], sentence: str) -> tuple[int, str]:
    return (not value <= limits[0]) + (not value <= limits[1]), sentence.format(value)  # NaN is beyond any limit


def _below(value: float, limits: tuple[float, float], sentence: str) -> tuple[int, str]:
    return (not value >= limits[0]) + (not value >= limits[1]), sentence.format(value)
