"""The verdict on each claim of the paper: functions from the tables of `results/` to a word and what was found."""

import json
from pathlib import Path

import pandas as pd
from evidence import ALPHA, Results
from similarities import WITH_DICE, trainings_of

HOLDS, IN_PART, NOT, UNTESTABLE = "holds", "holds in part", "does not hold here", "cannot be tested"
NAMES = {"ants": "ANTs", "convexadam": "convexAdam", "miregnet": "MIRegNet", "midiceregnet": "MIDiceRegNet"}
NETWORKS = ("miregnet", "midiceregnet")
LABELS = {"dsc": "DSC", "asd_mm": "ASD", "hd_mm": "HD", "tre_mm": "TRE"}


DEARER = 1.1  # ratio of seconds per step; measured twice, that of Parzen's to MINE's was 0.95 and 1.01


def verdict(*tests: bool) -> str:
    """All tests passed: it holds; some: in part; none: it does not hold here."""
    return HOLDS if all(tests) else IN_PART if any(tests) else NOT


def dice_of_the_abstract(results: Results) -> tuple[str, str]:
    """The absolute values belong to data that nobody else has."""
    here = " and ".join(f"{results.mean(m, 'dsc'):.3f}" for m in NETWORKS)
    pairs = results("table1.csv")["n"].max()
    return UNTESTABLE, f"{here} on {pairs} other pairs. The paper's pairs are private, and overlap depends on the data."


def estimator(results: Results) -> tuple[str, str]:
    """MINE against the closed form and the histogram."""
    table = results("estimator.csv").set_index("case")
    gauss, many, images = table.loc["gaussian d=1"], table.loc["gaussian d=20"], _image_pairs(table)
    wrong = (gauss["mine"] - gauss["reference"]).abs() / gauss["reference"].clip(lower=0.2)
    short = 1 - images["mine"] / images["reference"]
    lost = 1 - (many["mine"] / many["reference"])[many["reference"] > 0].min()
    said = (
        f"Gaussians in one dimension: at most {100 * wrong.max():.1f} % off. "
        f"Image pairs: {100 * short.min():.0f} to {100 * short.max():.0f} % below the histogram, "
        f"{'falling' if _falls(table) else 'not falling'} with every shift. "
        f"In twenty dimensions up to {100 * lost:.0f} % are missing, at values far above those of images."
    )
    return verdict(wrong.max() < 0.05, short.abs().max() < 0.15, _falls(table)), said


def shuffled_voxels(results: Results) -> tuple[str, str]:
    """Shuffling voxels gives the product of marginals only to a T without receptive field."""
    table = results("estimator.csv").set_index("case")
    voxels, patches = table.loc["3x3x3, voxels shuffled", "mine"], table.loc["3x3x3, patches shuffled", "mine"]
    images = _image_pairs(table)
    single = (1 - images["mine"] / images["reference"]).abs().max() < 0.15
    said = (
        "With kernels of 1×1×1 the estimate follows the histogram (claim 2). "
        f"A T that sees 3×3×3 voxels gives {voxels.min():.0f} to {voxels.max():.0f} nats when voxels are shuffled, "
        f"and {patches.min():.1f} to {patches.max():.1f} when whole patches are: it tells noise from texture."
    )
    return verdict(single, (voxels.to_numpy() < 2 * patches.to_numpy()).all()), said


def without_labels(results: Results) -> tuple[str, str]:
    """MIRegNet against no registration."""
    tests, said = [], []
    for metric in ("dsc", "asd_mm", "tre_mm"):
        before, after = (results.mean(method, metric) for method in ("none", "miregnet"))
        p = results.test(metric, "miregnet", "none")[1]
        tests.append(p < ALPHA and (after > before if metric == "dsc" else after < before))
        said.append(f"{LABELS[metric]} {_value(before, metric)} → {_value(after, metric)} ({_p(p)})")
    if results.published:
        return verdict(*tests), f"{', '.join(said)}."
    ablation = results("ablation.csv").set_index("experiment")["tre_mm"]
    one, four = ablation["DeformNet: one pass"], ablation["DeformNet: recommended"]
    return verdict(*tests), (
        f"{', '.join(said)}. Without iterations of an optimiser, but the networks are asked several times; "
        f"asked once, TRE on validation pairs is {one:.2f} mm instead of {four:.2f}."
    )


def overlap(results: Results) -> tuple[str, str]:
    """DSC of both networks against ANTs."""
    return _both_against_ants(results, "dsc")


def surfaces(results: Results) -> tuple[str, str]:
    """ASD of both networks against ANTs."""
    return _both_against_ants(results, "asd_mm")


def smoothness(results: Results) -> tuple[str, str]:
    """Folding and the SD of log J."""
    folding = max(results.mean(m, "folding_percent") for m in NETWORKS)
    rough = {m: results.mean(m, "sd_log_jacobian") for m in ("ants", *NETWORKS)}
    said = f"Folding of the networks: {folding:.3f} % of voxels at most. SD of log J: ANTs {rough['ants']:.3f}"
    for method in NETWORKS:
        p = _p(results.test("sd_log_jacobian", method, "ants")[1])
        said += f", {NAMES[method]} {rough[method]:.3f} ({p})"
    if "ants_masked" in results.methods:
        masked = results.mean("ants_masked", "sd_log_jacobian")
        said += f"; ANTs with lung masks, which the paper does not have, {masked:.3f}"
    return verdict(folding == 0, max(rough[m] for m in NETWORKS) <= rough["ants"]), f"{said}."


def outperformed(results: Results) -> tuple[str, str]:
    """Four measures of accuracy at once."""
    outcome = {(m, metric): results.ahead(metric, m, "ants") for m in NETWORKS for metric in LABELS}
    words = {1: "ahead", 0: "not told apart", -1: "behind"}
    said = []
    for method in NETWORKS:
        sorted_out = [(word, [LABELS[k] for k in LABELS if outcome[method, k] == v]) for v, word in words.items()]
        said.append(
            f"{NAMES[method]}: " + "; ".join(f"{word} in {', '.join(names)}" for word, names in sorted_out if names)
        )
    for method, words in (
        ("ants_masked", "ANTs with lung masks"),
        ("ants_long_masked", "ANTs with its longer schedule too"),
        ("convexadam", "convexAdam"),
    ):
        if method in results.methods:
            other, ours = (results.mean(m, "tre_mm") for m in (method, "midiceregnet"))
            p = _p(results.test("tre_mm", "midiceregnet", method)[1])
            said.append(
                f"{words}, which the paper does not have: TRE {other:.2f} mm to MIDiceRegNet's {ours:.2f} ({p})"
            )
    if -1 in outcome.values():
        return NOT, ". ".join(said) + "."
    return verdict(*(value == 1 for value in outcome.values())), ". ".join(said) + "."


def dice_helps(results: Results) -> tuple[str, str]:
    """MIDiceRegNet against MIRegNet."""
    tests, said = [], []
    for metric in ("dsc", "asd_mm", "tre_mm"):
        one, other = (results.mean(m, metric) for m in ("midiceregnet", "miregnet"))
        said.append(
            f"{LABELS[metric]} {_value(one, metric, 4)} against {_value(other, metric, 4)} "
            f"({_p(results.test(metric, 'midiceregnet', 'miregnet')[1])})"
        )
        tests.append(results.ahead(metric, "midiceregnet", "miregnet") == 1)
    return verdict(*tests[:2]), "; ".join(said) + "."


def hausdorff(results: Results) -> tuple[str, str]:
    """In the paper's table ANTs has the lowest HD, with a star against MIDiceRegNet."""
    values = {m: results.mean(m, "hd_mm") for m in ("ants", *NETWORKS)}
    said = ", ".join(f"{NAMES[m]} {value:.2f} mm" for m, value in values.items())
    p = [results.test("hd_mm", "ants", m)[1] for m in NETWORKS]
    lowest = min(values, key=values.get) == "ants"
    result = verdict(lowest, results.ahead("hd_mm", "ants", "midiceregnet") == 1)
    return result, f"{said}; {_p(min(p))} at the least. One voxel of each pair decides HD."


def runtime(results: Results) -> tuple[str, str]:
    """Seconds per pair on a GPU, and how many times as long ANTs takes on the same processor."""
    speed, largest = (
        results(f"benchmarks/{name}").set_index(["size", "method"])["seconds"]
        for name in ("speed.csv", "largest/speed.csv")
    )
    pairs = results("benchmarks/gpu/paper_profile_metrics.csv").groupby("method")["seconds"].mean()
    run = json.loads((results.folder / "benchmarks/gpu/paper_profile_run.json").read_text(encoding="utf-8"))
    ants = {64: speed[64, "ants"], 320: largest[320, "ants"]}
    times = {size: seconds / speed[size, "miregnet"] for size, seconds in ants.items()}
    said = (
        f"320³ on one {run['device']}: {pairs['miregnet']:.2f} s. On two cores of a CPU, both with two threads: the "
        f"networks on the full grid of 320³ {speed[320, 'miregnet']:.1f} s, ANTs {ants[320]:.0f} s, {times[320]:.1f} "
        f"times as long; at 64³ {speed[64, 'miregnet']:.2f} and {ants[64]:.2f} s, {times[64]:.1f} times; "
        f"`mine_reg.register`, which works on 2.5 mm, takes {speed[320, 'register']:.1f} s at 320³. "
        "The paper names neither its hardware nor ANTs' threads and iterations."
    )
    return verdict(pairs["miregnet"] < 15, min(times.values()) >= 10), said


def sizes(results: Results) -> tuple[str, str]:
    """The same networks on cubes of several sizes."""
    speed = results("benchmarks/speed.csv")
    found = sorted(speed.loc[speed["method"] == "miregnet", "size"])
    ran = ", ".join(f"{size}³" for size in found)
    return verdict(len(found) >= 3), f"The networks ran at {ran} voxels, with random weights, for their time alone."


def weights(results: Results) -> tuple[str, str]:
    """The scale of TV is unknown, so a weight of it means nothing by itself."""
    table = results("sweep.csv")
    best, paper = (
        table.loc[table["tre_mm"].idxmin()],
        table[(table["mu"] == 0.01) & (table["lambda_dice"] == 1)].iloc[0],
    )
    return UNTESTABLE, (
        "The paper does not say in which unit the field is, nor whether TV is a sum or a mean, so its μ has no scale. "
        f"With TV as defined here, 12 training subjects and {len(table)} combinations, TRE on validation pairs is "
        f"lowest at μ = {best['mu']:g}, λ₂ = {best['lambda_dice']:g} ({best['tre_mm']:.2f} mm); "
        f"at μ = 0.01, λ₂ = 1 it is {paper['tre_mm']:.2f} mm."
    )


def back_propagation(results: Results) -> tuple[str, str]:
    """Mutual information by Parzen windows, in the place of MINE."""
    tested = results("table2_tests.csv")
    tested = tested[(tested["metric"] == "tre_mm") & (tested["other"] == "Parzen MI")]
    alike = tested[tested["one"] == "MINE of intensities"]  # MINE with local contrast sees more than Parzen's histogram
    if alike.empty:
        raise KeyError("a comparison of MINE of intensities with Parzen MI in table2_tests.csv")
    said = [
        f"{WITH_DICE[row.loss]} {row.mean_other:.2f} mm against {row.mean_one:.2f} of {row.one} "
        f"(corrected {_p(row.p_holm)})"
        for row in tested.itertuples()
    ]
    worse = ((alike["p_holm"] < ALPHA) & alike["better"]).any()
    cost = results("table2.csv").groupby("similarity")["seconds_per_step"].mean()
    ratio = cost["Parzen MI"] / cost["MINE"]
    return verdict(ratio > DEARER, worse), (
        f"Parzen-window mutual information trains the same network; a step costs {ratio:.2f} of MINE's. "
        f"TRE on the test pairs, over {trainings_of(tested)}: {'; '.join(said)}."
    )


def pictures(results: Results) -> tuple[str, str]:
    """What can only be looked at."""
    files = ("figure2.png", "figure3.png")
    shown = all((results.folder / "figures" / name).is_file() for name in files)
    return UNTESTABLE, "The paper shows one pair and names no measure." + (
        " Figures 2 and 3 show the same of the pair whose DSC is the median." if shown else ""
    )


def _both_against_ants(results: Results, metric: str) -> tuple[str, str]:
    values = "; ".join(
        f"{NAMES[m]} {_value(results.mean(m, metric), metric)} ({_p(results.test(metric, m, 'ants')[1])})"
        for m in NETWORKS
    )
    return (
        verdict(*(results.ahead(metric, m, "ants") == 1 for m in NETWORKS)),
        f"ANTs {_value(results.mean('ants', metric), metric)}; {values}.",
    )


def _image_pairs(table: pd.DataFrame) -> pd.DataFrame:
    return table.loc[["image pair", "image pair, inverted"]]


def _falls(table: pd.DataFrame) -> bool:
    return all(
        table.loc[[case]].sort_values("x")["mine"].is_monotonic_decreasing
        for case in ("image pair", "image pair, inverted")
    )


def _value(value: float, metric: str, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if metric == "dsc" else f"{value:.2f} mm"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def caution(results: Results) -> str:
    """How many trainings the page rests on, and how far they differ."""
    trainings = results.trainings
    if trainings < 2:
        return (
            "All of this is **one training** of each network, with one seed: p-values say whether the pairs agree, not "
            "whether another training would. `make seeds` trains more."
        )
    spread = [results.values(m, "tre_mm").mean().std() for m in NETWORKS]
    gain = [results.mean("ants", "tre_mm") - results.mean(m, "tre_mm") for m in NETWORKS]
    return (
        f"Networks are judged over **{trainings} trainings** of each, with all of their steps and another seed; p "
        "counts pairs and trainings (notebook 13). Table 1 shows the first of these trainings alone, as the paper "
        f"does. In TRE the networks are {gain[0]:.2f} and {gain[1]:.2f} mm ahead of ANTs; between trainings it has "
        f"standard deviations of {spread[0]:.2f} and {spread[1]:.2f} mm."
    )


def to_the_letter(folder: Path) -> str:
    """What the column of that name rests on."""
    try:
        trainings = Results(folder, published=True).trainings
    except FileNotFoundError:
        return "The networks nearest to the paper's text are not in this run; `make as_published` trains them."
    many = "**one training**" if trainings == 1 else f"**{trainings} trainings**"
    return (
        "*To the letter* are verdicts by the same rules on the networks nearest to the paper's text, with TV as a mean "
        f"([notebook 14](../results/notebooks/14_as_published.ipynb)): {many} of each"
        + (", so p says whether the pairs agree, not whether another training would." if trainings == 1 else ".")
    )
