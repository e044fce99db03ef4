"""Python source as text: without comments and docstrings, and as a list of statements."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator


def meaning(text: str, parsed: ast.Module | None = None) -> str:
    """Python source without comments, docstrings and empty lines: what decides what it does.

    text: the source. parsed: its syntax tree, where that is known. The rest of the text is kept as written, so that the
    result does not depend on the Python version. Text that is no Python is returned unchanged.
    """
    parsed = parsed or parse(text)
    if parsed is None:
        return text
    # Where comments and docstrings are, and which lines belong to strings that stay.
    comments, in_strings = _comments_and_strings(text)
    lines = io.StringIO(text).readlines()
    docstrings = list(_docstrings(parsed, lines))
    for (first, _), (last, _) in docstrings:
        in_strings -= set(range(first, last + 1))
    # Cut them out, the last one first, so that the places of the others stay right.
    for (first, left), (last, right) in sorted(docstrings + comments, reverse=True):
        rest = lines[first - 1][:left] + lines[last - 1][right:]
        lines[first - 1 : last] = [rest] + [""] * (last - first)
    # Drop empty lines and spaces at the end of a line, but not inside strings.
    kept = []
    for number, line in enumerate(lines, start=1):
        if number in in_strings:
            kept.append(line)
        elif line.strip():
            kept.append(line.rstrip() + "\n")
    return "".join(kept)


Place = tuple[int, int]  # line from 1, column in characters from 0


def _docstrings(parsed: ast.AST, lines: list[str]) -> Iterator[tuple[Place, Place]]:
    """Where the docstrings of a module, its classes and functions begin and end."""
    for node in (parsed, *statements(parsed)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            text = first.value if isinstance(first, ast.Expr) else None
            # The syntax tree counts bytes, a place counts characters.
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                before = lines[text.lineno - 1].encode()[: text.col_offset].decode()
                within = lines[text.end_lineno - 1].encode()[: text.end_col_offset].decode()
                yield (text.lineno, len(before)), (text.end_lineno, len(within))


def _comments_and_strings(text: str) -> tuple[list[tuple[Place, Place]], set[int]]:
    """Where comments begin and end; and the numbers of the lines that belong to strings of several lines."""
    comments, in_strings, open_strings = [], set(), []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.OP, tokenize.NAME):
            continue
        kind = tokenize.tok_name[token.type]
        if kind == "COMMENT":
            comments.append((token.start, token.end))
        elif kind == "STRING" and token.end[0] > token.start[0]:
            in_strings |= set(range(token.start[0], token.end[0] + 1))
        # From Python 3.12 on an f-string is several tokens, and may hold another one.
        elif kind in ("FSTRING_START", "TSTRING_START"):
            open_strings.append(token.start[0])
        elif kind in ("FSTRING_END", "TSTRING_END") and (first := open_strings.pop()) < token.end[0]:
            in_strings |= set(range(first, token.end[0] + 1))
    return comments, in_strings


def parse(text: str) -> ast.Module | None:
    """The syntax tree of source text; None for text that is no Python, such as a cell that is meant to fail."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return None


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every statement inside a node, at any depth, but those under `if TYPE_CHECKING:`."""
    skipped = ("body",) if isinstance(node, ast.If) and _is_for_type_checkers(node.test) else ()
    for field in ("body", "handlers", "cases", "orelse", "finalbody"):
        if field in skipped:
            continue
        for child in getattr(node, field, ()):
            yield child
            yield from statements(child)


def _is_for_type_checkers(test: ast.expr) -> bool:
    """Whether a condition is the name TYPE_CHECKING, alone or as an attribute of a module."""
    return getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING"
