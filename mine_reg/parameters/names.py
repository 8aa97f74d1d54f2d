"""Names that do not exist are errors, those that papermill passes to a notebook as well."""

import ast
import sys
from difflib import get_close_matches


def check_name(name: str, known: tuple, kind: str, where: str) -> None:
    """Raise ValueError, with the nearest right name, for one that is not ``known``."""
    if name in known:
        return
    near = get_close_matches(str(name), known, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
    raise ValueError(f"unknown {kind} {name!r} in {where}; {advice}")


def check_papermill_names() -> None:
    """Raise ValueError for a ``papermill -p`` name that the running notebook does not have.

    Papermill itself only logs a warning, and a sweep over nothing is worse than an error. It writes the values that it
    was given into a cell of its own, behind the cell that declares the parameters.
    """
    if "IPython" not in sys.modules:
        return
    shell = sys.modules["IPython"].get_ipython()
    cells = shell.history_manager.input_hist_parsed if shell is not None else []
    injected = next((number for number, cell in enumerate(cells) if cell.startswith("# Parameters\n")), None)
    if injected is None:
        return
    declared = tuple(sorted({name for cell in cells[:injected] for name in assigned(cell)}))
    for name in sorted(assigned(cells[injected])):
        check_name(name, declared, "parameter", "papermill -p")


def assigned(source: str) -> set[str]:
    """Names that Python source assigns to at its top level."""
    try:
        nodes = ast.parse(source).body
    except SyntaxError:  # a cell with IPython magics declares no parameters
        return set()
    targets = (target for node in nodes if isinstance(node, ast.Assign) for target in node.targets)
    return {target.id for target in targets if isinstance(target, ast.Name)}
