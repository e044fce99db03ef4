"""The parameters of a notebook, read from its parameter cells."""

from __future__ import annotations

import ast
import types
from typing import Any

from helpers.core.settings import Settings

SWITCHES = ("profile", "recipe", "seed", "device")


def without_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """Parameters without None and without switches at their defaults, such as profile="mini".

    A run is named after what was given: so the reference run has one name, whether its profile is typed or not.
    """
    kept = {}
    for name, value in given.items():
        is_usual = name in SWITCHES and value == Settings.model_fields[name].default
        if value is not None and not is_usual:
            kept[name] = value
    return kept


def notebook_parameters(namespace: dict[str, Any]) -> dict[str, Any]:
    """What the parameter cells of a notebook assign, or the plain values of any other namespace.

    namespace: a notebook's globals, whose "In" is IPython's history. The cells are read from there, so that variables
    which the reader made since do not count: the newest parameters cell of the notebook itself (it has annotations) and
    the newest that papermill put after it. Prints a note where such a variable was set to another value since.
    """
    if not isinstance(namespace.get("In"), list):
        return _plain_values(namespace)
    found: dict[str, Any] = {}
    for name, node in _assigned(namespace["In"]).items():
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


def _plain_values(namespace: dict[str, Any]) -> dict[str, Any]:
    """Names and values without functions, modules and names that begin with an underscore."""
    found = {}
    for name, value in namespace.items():
        if not (name.startswith("_") or callable(value) or isinstance(value, types.ModuleType)):
            found[name] = value
    return found


def _assigned(history: list[str]) -> dict[str, ast.expr]:
    """What the parameter cells among all cells that were executed assign: name -> expression."""
    # All parameter cells, and the place of the newest that the notebook has itself.
    cells: list[dict[str, ast.expr]] = []
    own = None
    for source in history:
        parsed = _parsed_parameters(source)
        if parsed is not None:
            annotated, assigned = parsed
            if annotated:
                own = len(cells)
            cells.append(assigned)
    # That one counts, and the newest after it, which papermill put there.
    used = cells if own is None else [cells[own], *cells[own + 1 :][-1:]]
    together: dict[str, ast.expr] = {}
    for assigned in used:
        together |= assigned
    return together


def _parsed_parameters(source: str) -> tuple[bool, dict[str, ast.expr]] | None:
    """Of a cell that starts with `# Parameters`: whether it has annotations, and what it assigns. None for others."""
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
