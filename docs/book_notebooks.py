"""Executed notebooks as pages of the book: with short progress bars, and a note on what made it and what it wrote."""

import json
import re
from pathlib import Path

from ruamel.yaml import YAML

BAR = re.compile(r"\d+%\|")  # in a line that tqdm draws


def tidy(text: str, name: str, root: Path) -> str:
    """The JSON of the executed notebook `name` with short progress bars, and with its origin after its first cell."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = _without_progress(cell["outputs"])
    note = {"cell_type": "markdown", "id": "made-by", "metadata": {}, "source": origin(name, root)}
    notebook["cells"].insert(1, note)
    return json.dumps(notebook)


def origin(name: str, root: Path) -> str:
    """Markdown that names notebook, stage and command behind the executed notebook `name`, and the results it wrote."""
    source, pipeline, stage, command, written = maker(name, root)
    results = ", ".join(f"[{Path(path).name}](../{path.removeprefix('results/')})" for path in written)
    return (
        "```{admonition} Where this comes from\n"
        f"Executed copy of [`{source}`](../../{source}); command `{command}`, stage `{stage}` of `{pipeline}`.\n"
        + (f"It wrote {results}.\n" if results else "")
        + "```"
    )


def maker(name: str, root: Path) -> tuple[str, str, str, str, list[str]]:
    """Source notebook, DVC file, stage, command and files in results/ of the executed notebook `name` (without suffix).

    Raises LookupError when no stage runs it.
    """
    source = next((path for path in (root / "notebooks").glob("*.ipynb") if name.startswith(path.stem)), None)
    for pipeline, command in (("dvc.yaml", "dvc repro {}"), ("experiments/dvc.yaml", "make {}")):
        for stage, given in YAML(typ="safe").load(root / pipeline)["stages"].items():
            if source and f".build/{source.name} " in str(given.get("cmd")):
                loss = name.removeprefix(source.stem).strip("_")
                outputs = [out if isinstance(out, str) else next(iter(out)) for out in given["outs"]]
                written = [out for out in outputs if out.startswith("results/") and (root / out).is_file()]
                written = [out for out in written if not out.endswith(".pdf") and (not loss or f"_{loss}." in out)]
                return f"notebooks/{source.name}", pipeline, stage, command.format(stage), written
    raise LookupError(f"no stage of dvc.yaml or experiments/dvc.yaml runs the notebook {name}")


def link_files(text: str, page: str, pages: set[str], root: Path) -> str:
    """`text` of the page `page` (no suffix, from the root), in which links to Markdown and notebooks that are no
    `pages` of the book lead to the files, as MyST's ``path:`` asks for."""

    def mend(link: re.Match) -> str:
        path = (root / page).parent / link[1]
        inside = path.resolve().relative_to(root.resolve()).with_suffix("").as_posix()
        return link[0] if inside in pages or not path.is_file() else f"](path:{link[1]})"

    return re.sub(r"\]\((\.[^)#\s]*\.(?:md|ipynb))\)", mend, text)


def _without_progress(outputs: list[dict]) -> list[dict]:
    """Outputs with each progress bar drawn once, as it ended."""
    merged: list[dict] = []
    for output in outputs:
        if output["output_type"] != "stream":
            merged.append(output)
        elif merged and merged[-1].get("name") == output["name"]:
            merged[-1]["text"] += "".join(output["text"])
        else:
            merged.append(output | {"text": "".join(output["text"])})
    for output in merged:
        if output["output_type"] == "stream":
            lines = (line.rstrip("\r").rpartition("\r")[2] for line in output["text"].split("\n"))
            output["text"] = "".join(f"{line}\n" for line in lines if line.strip() and not _unfinished(line))
    return [output for output in merged if output["output_type"] != "stream" or output["text"]]


def _unfinished(line: str) -> bool:
    return bool(BAR.search(line)) and "100%|" not in line
