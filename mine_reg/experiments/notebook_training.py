"""One network that its notebook trains, kept in a folder that is named by all that decides what it learns."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from mine_reg.settings import assigned, root, settings
from mine_reg.storage.results import code, digest, forget, keep
from mine_reg.training.fit import CURVES, LEARNED_BY

NOTEBOOKS = {"affinenet": "04_train_affinenet.ipynb", "deformnet": "05_train_deformnet.ipynb"}
RUN = "run.json"  # beside the network: the seconds that the notebook took, and its parameters


@dataclass(frozen=True)
class NotebookTraining:
    """A training, in a form that can be sent to another process.

    notebook : that trains the network; parameters : of the notebook
    seed : of its settings
    folder : where the trained network is kept
    identity : all that decides what it learns except the pairs, as a digest
    """

    notebook: Path
    parameters: dict
    seed: int
    folder: Path
    identity: str

    def train(self) -> None:
        """Have the trained network in ``folder``, with ``run.json``, its curves and the executed notebook; nothing is
        done when it is there already. Raises RuntimeError when the notebook fails."""
        keep(self.folder, self.folder.name, self._run_notebook)

    def _run_notebook(self, made: Path) -> None:
        import papermill  # here: slow to import, and only where something is trained
        from papermill.exceptions import PapermillExecutionError

        start = time.perf_counter()
        executed = self.folder.with_name(f"{self.folder.name}.ipynb")  # outside, so that it can be read when it fails
        try:
            papermill.execute_notebook(
                self.notebook,
                executed,
                parameters=self.parameters | {"out": str(made), "curves": str(made / CURVES)},
                kernel_name="python3",
                language="python",
                cwd=self.notebook.parents[1],
                progress_bar=False,
                log_output=False,
            )
        except PapermillExecutionError as error:
            raise RuntimeError(
                f"{self.notebook.name} stopped with {error.ename}: {error.evalue}; see {executed}"
            ) from None
        forget(made)  # the mark that `fit` left; the whole folder gets one of its own
        executed.replace(made / "notebook.ipynb")
        run = {"seconds": time.perf_counter() - start} | self.parameters
        (made / RUN).write_text(json.dumps(run, default=str) + "\n", encoding="utf-8")


def planned(
    network: str,
    changes: dict,
    pairs: Path,
    profile: str,
    work: Path,
    affinenet: NotebookTraining | Path | None = None,
) -> NotebookTraining:
    """The training of ``network`` on the preprocessed ``pairs``, kept inside ``work``.

    changes : parameters that differ from params.yaml
    affinenet : below a DeformNet, the training of the AffineNet, which need not be done yet, or the folder of one

    Raises ValueError for an unknown parameter, and for one that the notebook does not declare, and FileNotFoundError
    when there are no pairs.
    """
    notebook = root() / "notebooks" / NOTEBOOKS[network]
    cfg = settings(network, profile=profile, **changes)
    if undeclared := sorted({*changes} - assigned(_sources(notebook, "parameters")[0])):
        raise ValueError(f"{notebook.name} has no parameter {undeclared[0]}; add it there")
    parameters, below, identities = changes | {"profile": profile, "pairs": str(pairs)}, (), ()
    if isinstance(affinenet, NotebookTraining):
        parameters["affinenet"], below = str(affinenet.folder), (affinenet.folder.name,)
        identities = (affinenet.identity,)
    elif affinenet is not None:
        parameters["affinenet"] = str(affinenet)
        below = identities = (affinenet / "settings.json", *sorted(affinenet.glob("*.safetensors")))
    if not (pairs / "pairs.csv").is_file():
        raise FileNotFoundError(f"{pairs} holds no pairs.csv; give a folder made by the preprocessing step")
    decided_by = (vars(cfg), _training_cells(notebook))
    key = digest(*decided_by, pairs / "pairs.csv", *code(*LEARNED_BY), *below)
    identity = digest(*decided_by, *code(*LEARNED_BY), *identities)
    return NotebookTraining(notebook, parameters, cfg.seed, work / f"{network}-{key[:16]}", identity)


def seconds_of(folder: Path) -> float:
    """Seconds of the training whose network is kept in ``folder``; NaN for a network that came there in another way."""
    path = folder / RUN
    return json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.is_file() else float("nan")


def _training_cells(notebook: Path) -> list[str]:
    """Source of the code cells up to the one that trains; those behind it only show what came out."""
    sources = _sources(notebook)
    last = next((number for number, source in enumerate(sources) if " fit(" in source), len(sources))
    return sources[: last + 1]


def _sources(notebook: Path, tag: str | None = None) -> list[str]:
    """Source of the code cells, or of those with a tag."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    cells = [cell for cell in cells if cell["cell_type"] == "code"]
    return ["".join(cell["source"]) for cell in cells if tag is None or tag in cell["metadata"].get("tags", ())]
