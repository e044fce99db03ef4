"""The parameters of a notebook, read from its parameter cells."""

from __future__ import annotations

import ast
import types
from typing import Any

from helpers.core.settings import Settings

SWITCHES = ("profile", "recipe", "seed", "device")


def without_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """Drop `profile="mini"` and the like, so that the reference run is the same run however it is asked for."""
    usual = {name: Settings.model_fields[name].default for name in SWITCHES}
    return {n: v for n, v in given.items() if v is not None and not (n in usual and v == usual[n])}


def notebook_parameters(namespace: dict[str, Any]) -> dict[str, Any]:
    """What the parameter cells of a notebook assign, or the plain values of any other namespace.

    The cells are read from IPython's history, so that variables which the reader made since do not count:
    the newest such cell of the notebook itself (it has annotations) and the newest that papermill put after it.
    """
    if not isinstance(namespace.get("In"), list):
        public = {name: value for name, value in namespace.items() if not name.startswith("_")}
        return {n: v for n, v in public.items() if not (callable(v) or isinstance(v, types.ModuleType))}
    cells = [cell for source in namespace["In"] if (cell := _parsed_parameters(source)) is not None]
    own = max((i for i, (annotated, _) in enumerate(cells) if annotated), default=None)
    used = cells if own is None else [cells[own], *cells[own + 1 :][-1:]]
    assigned = {name: node for _, cell in used for name, node in cell.items()}
    found: dict[str, Any] = {}
    for name, node in assigned.items():
        try:
            found[name] = ast.literal_eval(node)
        except ValueError:  # computed in the cell: its value is in the namespace, unless the cell failed
            if name in namespace:
                found[name] = namespace[name]
        else:
            later = namespace.get(name, found[name])
            if isinstance(later, str | int | float) and later != found[name]:
                print(
                    f"note: {name} = {later!r} was set after the parameters cell; that cell's {found[name]!r} is used"
                )
    return found


def _parsed_parameters(source: str) -> tuple[bool, dict[str, ast.expr]] | None:
    """Of a cell that starts with `# Parameters`: has it annotations, and what it assigns. None for other cells."""
    if not source.lstrip().startswith("# Parameters"):
        return None
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return None
    annotated, assigned = False, {}
    for node in body:
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            annotated = True
            assigned[ast.unparse(node.target)] = node.value
        elif isinstance(node, ast.Assign):
            assigned |= {ast.unparse(target): node.value for target in node.targets}
    return annotated, {name: value for name, value in assigned.items() if not name.startswith("_")}
