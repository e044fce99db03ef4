"""How the code reads, in figures: sizes of files and functions, comments, and how much stands on a line.

python -m benchmarks.code_shape [FOLDER ...]    prints one row a folder; helpers and tests where none is given.

A code line is a line that is neither blank nor a comment nor part of a docstring. AST nodes a code line say how dense
a line is; comprehensions per 100 code lines say how often a loop is folded into an expression.
"""

import ast
import io
import statistics
import sys
import tokenize
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = (
    "code", "files", "lines", "median / max lines a file", "function median / p90", "comment lines",
    "AST nodes a code line", "comprehensions per 100 code lines",
)  # fmt: skip
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)
NO_CODE = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


class Shape(NamedTuple):
    """Figures of one file: `functions` are the lengths of its functions in lines, the others are counts."""

    lines: int
    functions: list[int]
    comments: int
    code: int
    nodes: int
    comprehensions: int


def shape_of(text: str) -> Shape:
    """The figures of the text of one Python file."""
    nodes = list(ast.walk(ast.parse(text)))
    comments, code = _lines_by_kind(text)
    # Docstrings are text, not code.
    for node in nodes:
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            code.difference_update(_lines_of(node.body[0]))
    return Shape(
        lines=len(text.splitlines()),
        functions=[len(_lines_of(node)) for node in nodes if isinstance(node, FUNCTIONS)],
        comments=len(comments),
        code=len(code),
        nodes=len(nodes),
        comprehensions=sum(isinstance(node, COMPREHENSIONS) for node in nodes),
    )


def _lines_by_kind(text: str) -> tuple[set[int], set[int]]:
    """Numbers of the lines with a comment, alone or behind code, and of those with a token of code."""
    comments: set[int] = set()
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in NO_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    return comments, code


def _lines_of(node: ast.stmt) -> range:
    return range(node.lineno, node.end_lineno + 1)


def row(name: str, shapes: list[Shape]) -> str:
    """One row of the table for the files of a folder; a dash stands where there is nothing to count."""
    shapes = [shape for shape in shapes if shape.code > 1]  # without empty __init__.py and the like
    if not shapes:
        return f"| {name} | 0 | 0 |" + " - |" * (len(COLUMNS) - 3)
    # Sums over the files.
    lines = [shape.lines for shape in shapes]
    code = sum(shape.code for shape in shapes)
    comments = sum(shape.comments for shape in shapes)
    nodes = sum(shape.nodes for shape in shapes)
    comprehensions = sum(shape.comprehensions for shape in shapes)
    # Lengths of all functions, short ones first.
    functions = sorted(length for shape in shapes for length in shape.functions)
    lengths = "-"
    if functions:
        p90 = functions[int(0.9 * (len(functions) - 1))]
        lengths = f"{statistics.median(functions):.0f} / {p90}"
    return (
        f"| {name} | {len(shapes)} | {sum(lines)} | {statistics.median(lines):.0f} / {max(lines)} | {lengths} "
        f"| {comments / sum(lines):.1%} | {nodes / code:.1f} | {100 * comprehensions / code:.1f} |"
    )


def main(folders: list[str]) -> None:
    """Print the table for folders, named as seen from the project."""
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    for name in folders or ["helpers", "tests"]:
        files = sorted((ROOT / name).rglob("*.py"))
        print(row(name, [shape_of(path.read_text(encoding="utf-8")) for path in files]))


if __name__ == "__main__":
    main(sys.argv[1:])
