"""Python source as text: what of it does something, and its statements."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator


def meaning(text: str, parsed: ast.Module | None = None) -> str:
    """Python source without comments, docstrings and empty lines; strings stay as they are.

    The rest of the text is kept as written, so that the result does not depend on the Python version. Text that is no
    Python is returned unchanged. `parsed`: its syntax tree, where that is known.
    """
    parsed = parsed or parse(text)
    if parsed is None:
        return text
    comments, inside = _comments_and_strings(text)
    lines = io.StringIO(text).readlines()
    docstrings = list(_docstrings(parsed, lines))
    for (first, _), (last, _) in docstrings:
        inside -= set(range(first, last + 1))
    for (first, left), (last, right) in sorted(docstrings + comments, reverse=True):
        rest = lines[first - 1][:left] + lines[last - 1][right:]
        lines[first - 1 : last] = [rest] + [""] * (last - first)
    numbered = enumerate(lines, start=1)
    return "".join(line if n in inside else line.rstrip() + "\n" for n, line in numbered if n in inside or line.strip())


Place = tuple[int, int]  # line from 1, column in characters from 0


def _docstrings(parsed: ast.AST, lines: list[str]) -> Iterator[tuple[Place, Place]]:
    """Where the docstrings of a module, its classes and functions begin and end."""
    for node in (parsed, *statements(parsed)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            text = first.value if isinstance(first, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                before = lines[text.lineno - 1].encode()[: text.col_offset].decode()
                within = lines[text.end_lineno - 1].encode()[: text.end_col_offset].decode()
                yield (text.lineno, len(before)), (text.end_lineno, len(within))


def _comments_and_strings(text: str) -> tuple[list[tuple[Place, Place]], set[int]]:
    """Where comments begin and end; and the lines of strings of several lines, whose empty lines are part of them."""
    comments, inside, open_strings = [], set(), []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.OP, tokenize.NAME):
            continue
        kind = tokenize.tok_name[token.type]
        if kind == "COMMENT":
            comments.append((token.start, token.end))
        elif kind == "STRING" and token.end[0] > token.start[0]:
            inside |= set(range(token.start[0], token.end[0] + 1))
        elif kind in ("FSTRING_START", "TSTRING_START"):  # from Python 3.12 on
            open_strings.append(token.start[0])
        elif kind in ("FSTRING_END", "TSTRING_END") and (first := open_strings.pop()) < token.end[0]:
            inside |= set(range(first, token.end[0] + 1))
    return comments, inside


def parse(text: str) -> ast.Module | None:
    """Source text as a syntax tree; None for what is no Python: a cell that is meant to fail, part of an expression."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return None


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every statement below, without what only type checkers read."""
    inside = [*getattr(node, "body", ()), *getattr(node, "handlers", ()), *getattr(node, "cases", ())]
    if isinstance(node, ast.If) and _for_type_checkers(node.test):
        inside = []
    for child in (*inside, *getattr(node, "orelse", ()), *getattr(node, "finalbody", ())):
        yield child
        yield from statements(child)


def _for_type_checkers(test: ast.expr) -> bool:
    return getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING"
