"""The claims of the paper and the rule by which each is judged; verdicts.py computes what `results/` says about them.

`python docs/claims.py` prints what docs/claims.md shows in the book.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import similarities
import verdicts
from evidence import Results
from verdicts import HOLDS, IN_PART, NOT, UNTESTABLE


@dataclass(frozen=True)
class Claim:
    """What the paper says, how it is judged, and where the evidence is; paths are relative to results/.

    of_networks : the verdict depends on which networks are measured, and is also reached for those of notebook 14
    """

    title: str
    quote: str
    where: str
    rule: str
    judge: Callable[[Results], tuple[str, str]]
    command: str
    files: tuple[str, ...]
    notebook: str | None = None
    of_networks: bool = False


CLAIMS = (
    Claim(
        "Average Dice of 0.960 and 0.963",
        "the MIRegNet obtained an average Dice score of 0.960 […], and the Dice score was further improved to 0.963",
        "abstract",
        "none: the data are private",
        verdicts.dice_of_the_abstract,
        "make seeds",
        ("seeds.csv",),
        "13_seeds",
    ),
    Claim(
        "MINE measures the mutual information of two images",
        "one can efficiently obtain an approximation of MI by finding a appropriate T",
        "2.1",
        "three tests: Gaussians in one dimension within 5 % of the formula (of 0.2 nats where it is less); image pairs "
        "within 15 % of the histogram; the estimate falls with every shift",
        verdicts.estimator,
        "dvc repro estimator",
        ("estimator.csv",),
        "03_mutual_information",
    ),
    Claim(
        "Shuffled voxels stand for the product of the marginals",
        r"$\mathbb{P}_{\mathcal M} \otimes \mathbb{P}_{\mathcal F}$ could be approximated by the joint distribution of "
        r"$\tilde{\mathcal F}$ and $\mathcal M$ that represented by CNN",
        "2.1",
        "two tests: with kernels of 1×1×1 the estimate is within 15 % of the histogram; with 3×3×3 it is below "
        "twice that of shuffled patches",
        verdicts.shuffled_voxels,
        "dvc repro estimator",
        ("estimator.csv",),
        "03_mutual_information",
    ),
    Claim(
        "MIRegNet registers without labels",
        "an end-to-end registration framework, denoted as MIRegNet, to realize one-shot affine and deformable "
        "registration […] the MIRegNet is an unsupervised learning scheme",
        "abstract, 1",
        "three tests: DSC, ASD and TRE are better than before registration, each with p < 0.05",
        verdicts.without_labels,
        "make seeds",
        ("metrics.csv", "seeds_pairs.csv", "ablation.csv"),
        "13_seeds",
        of_networks=True,
    ),
    Claim(
        "Both networks overlap better than ANTs",
        "MIRegNet and MIDiceRegNet achieved higher Dice scores than ANTs",
        "3.3",
        "two tests: higher DSC than ANTs with p < 0.05, for either network",
        verdicts.overlap,
        "make seeds",
        ("metrics.csv", "seeds_pairs.csv"),
        "13_seeds",
        of_networks=True,
    ),
    Claim(
        "Both networks have smaller surface distances than ANTs",
        "Lower absolute surface distances show that these two deep learning models generated high-quality smooth "
        "registration parameters",
        "3.3",
        "two tests: lower ASD than ANTs with p < 0.05, for either network",
        verdicts.surfaces,
        "make seeds",
        ("metrics.csv", "seeds_pairs.csv"),
        "13_seeds",
        of_networks=True,
    ),
    Claim(
        "The transforms are smooth",
        "high-quality smooth registration parameters",
        "3.3",
        "two tests: neither network's transforms fold; the SD of log J of neither is above ANTs'",
        verdicts.smoothness,
        "make seeds",
        ("metrics.csv", "seeds_pairs.csv"),
        "13_seeds",
        of_networks=True,
    ),
    Claim(
        "Both outperform the conventional method",
        "both of them outperformed the conventional method",
        "4",
        "holds when both networks are ahead of ANTs in DSC, ASD, HD and TRE, each with p < 0.05; in part when in some "
        "of them and behind in none; else not. In the paper's own table HD is lower for ANTs",
        verdicts.outperformed,
        "make seeds",
        ("metrics.csv", "seeds_pairs.csv"),
        "13_seeds",
        of_networks=True,
    ),
    Claim(
        "Labels in training improve the result",
        "the MIDiceRegNet achieved better results than the unsupervised MIRegNet",
        "3.3, 4",
        "two tests: better DSC and better ASD than MIRegNet, each with p < 0.05",
        verdicts.dice_helps,
        "make seeds",
        ("metrics.csv", "seeds_pairs.csv"),
        "13_seeds",
        of_networks=True,
    ),
    Claim(
        "ANTs has the lowest Hausdorff distance",
        "10.39 ± 6.27 mm in bold, MIDiceRegNet 12.26 ± 7.29 with one star",
        "Table 1",
        "two tests: ANTs' mean is the lowest; it is lower than MIDiceRegNet's with p < 0.05",
        verdicts.hausdorff,
        "make seeds",
        ("metrics.csv", "seeds_pairs.csv"),
        "13_seeds",
        of_networks=True,
    ),
    Claim(
        "Less than 15 seconds, much faster than ANTs",
        "both of the two models realized the deformable registration in less than 15 seconds, much faster than ANTs",
        "3.3",
        "two tests: the networks take less than 15 s on the full 320³ grid, on a GPU; on the same processor, with as "
        "many threads, ANTs takes ten times as long or more, at 64³ and at 320³",
        verdicts.runtime,
        "make bench",
        (
            "benchmarks/speed.csv",
            "benchmarks/largest/speed.csv",
            "benchmarks/gpu/paper_profile_metrics.csv",
            "benchmarks/gpu/paper_profile_run.json",
        ),
    ),
    Claim(
        "Any image size",
        "this framework is compatible on different image sizes",
        "1",
        "networks of one architecture ran at three sizes or more",
        verdicts.sizes,
        "make bench",
        ("benchmarks/speed.csv",),
    ),
    Claim(
        "λ = 1 and μ = 0.01 are the weights to take",
        "we used 12 subjects of the training set, and obtained the parameters as, λ = 1, μ = 0.01",
        "3.2",
        "none: the scale of TV is unknown",
        verdicts.weights,
        "make sweep",
        ("sweep.csv",),
        "11_sweep",
    ),
    Claim(
        "Mutual information itself is hard to train on",
        "Calculating MI directly is costly and hard to back-propagate the derivative",
        "2.1",
        "two tests: a step with Parzen-window mutual information costs at least a tenth more than one with MINE; its "
        "TRE is higher than that of MINE of the same intensities, with Dice or without, by a test that counts pairs "
        "and trainings, p < 0.05 corrected for all comparisons of Table 2",
        verdicts.back_propagation,
        "make table2",
        ("table2.csv", "table2_tests.csv", "table2_pairs.csv"),
        "12_similarities",
    ),
    Claim(
        "Where the field is large, and clearer boundaries",
        "the main displacement occurs around the interface between the pulmonary parenchyma and other organs […] "
        "MIDiceRegNet shows a clearer boundary",
        "3.3",
        "none: no measure is named",
        verdicts.pictures,
        "dvc repro figures",
        ("figures/figure2.png", "figures/figure3.png"),
        "09_figures",
    ),
)


LETTER = (
    "[notebook 14](../results/notebooks/14_as_published.ipynb), "
    "[as_published_pairs.csv](../results/as_published_pairs.csv)"
)


def judge_all(folder: Path) -> pd.DataFrame:
    """One row per claim: title, verdict, here, and the same of the networks nearest to the paper's text, to_the_letter
    and letter_here; empty where the claim is not about networks. What lacks a table or a method cannot be tested."""
    rows = []
    for claim in CLAIMS:
        word, here = _judged(claim, Results(folder))
        letter = _judged(claim, Results(folder, published=True)) if claim.of_networks else ("", "")
        rows.append({"title": claim.title, "verdict": word, "here": here})
        rows[-1] |= dict(zip(("to_the_letter", "letter_here"), letter, strict=True))
    return pd.DataFrame(rows)


def _judged(claim: Claim, results: Results) -> tuple[str, str]:
    try:
        return claim.judge(results)
    except (FileNotFoundError, KeyError, IndexError) as error:
        return UNTESTABLE, f"Not in this run: {getattr(error, 'filename', None) or error}."


def summary(folder: Path) -> str:
    """Markdown table: claim and verdicts, and how often each verdict fell on this study's networks."""
    judged = judge_all(folder)
    counts = judged["verdict"].value_counts()
    lines = [
        f"| {i} | {row.title} | **{row.verdict}** | {row.to_the_letter} |"
        for i, row in enumerate(judged.itertuples(), 1)
    ]
    total = ", ".join(f"{word} {counts.get(word, 0)}" for word in (HOLDS, IN_PART, NOT, UNTESTABLE))
    head = ["| | claim | this study's networks | to the letter |", "|---|---|---|---|"]
    return "\n".join([*head, *lines, "", f"Of {len(judged)} claims, for this study's networks: {total}."])


def details(folder: Path) -> str:
    """Markdown: for each claim the paper's words, what was found, the rule, command, notebook and files."""
    parts = []
    for i, (claim, row) in enumerate(zip(CLAIMS, judge_all(folder).itertuples(), strict=True), 1):
        files = ", ".join(f"[{name}](../results/{name})" for name in claim.files if (folder / name).is_file())
        notebook = (
            f"[notebook {claim.notebook[:2]}](../results/notebooks/{claim.notebook}.ipynb), " if claim.notebook else ""
        )
        letter = f"* To the letter: **{row.to_the_letter}**. {row.letter_here}\n" if row.to_the_letter else ""
        if claim.of_networks:
            files += f"; `make as_published`; {LETTER}"
        parts.append(
            f"**{i}. {claim.title}**\n\n> {claim.quote} ({claim.where})\n\n"
            f"* **Verdict: {row.verdict}.**\n* Found: {row.here}\n{letter}* Rule: {claim.rule}.\n"
            f"* Evidence: `{claim.command}`; {notebook}{files}.\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    here = Path(__file__).resolve().parent.parent / "results"
    preamble = verdicts.caution(Results(here)), verdicts.to_the_letter(here)
    print(*preamble, summary(here), similarities.is_it_mine(here), details(here), sep="\n\n")
