"""Which code made a thing: the modules that its builder imports, and the versions of the libraries that these use.

Import statements are followed from the builder's module through helpers/, at the top of a module and inside functions,
those for type checkers aside. What is reached counts by package: all modules of a folder in which one is reached.
Comments, docstrings and empty lines do not count: words may be mended without new trainings.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from helpers.core import files
from helpers.core.profiles import ROOT
from helpers.core.source_text import meaning, parse, statements

SOURCES = ROOT / "helpers"
# Packages of which only the modules that are reached count: everything reaches some of them.
BY_MODULE = ("core", "pipeline")
# The package that holds the stages. A stage gets what another stage made as an input, by content; so of the other
# modules here a stage counts the text only, without the trainings and the decoding that they import for their stages.
STAGES = "pipeline"
# What a stage reaches and does not count, each for its reason. A notebook counts all that it reaches: it shows it.
COUNTED_OTHERWISE = {
    "core.settings": "the values that a stage uses are among what it is made from",
    "core.profiles": "its values are settings",
    "core.errors": "says what is wrong, changes nothing that is made",
    "core.progress": "shows how far a run is, changes nothing that is made",
    "core.quiet": "decides what libraries print",
    "core.text": "how numbers are written for people",
    "core.files": "decides how files are kept, not what is in them",
    "core.store": "decides when a thing is made again, not how",
    "core.source_text": "helps to say what made a thing",
    "core.code": "says what made a thing, does not make it",
    "pipeline.run": "opens a run and keeps its stages",
    "pipeline.parameters": "reads settings, whose values are among what a stage is made from",
}
LIBRARIES = {  # import name -> distribution: the libraries whose version may change a result
    **{name: name for name in ("torch", "transformers", "trl", "peft", "accelerate", "tokenizers", "datasets")},
    **{name: name for name in ("ctranslate2", "safetensors", "numpy", "scipy", "pandas", "statsmodels", "matplotlib")},
    **{name: name for name in ("cleanlab", "datasketch")},
    "sklearn": "scikit-learn",
    "huggingface_hub": "huggingface-hub",
}
CONTENT = {".toml", ".json", ".yaml", ".yml", ".j2"}  # files beside modules that count by content


class Code(NamedTuple):
    """What made a thing: file below helpers/ -> hash of its code, and library -> installed version."""

    code: dict[str, str]
    versions: dict[str, str]


class Module(NamedTuple):
    """One source file: its text without words for people, what it imports from helpers/, and from elsewhere."""

    text: str
    modules: frozenset[str]
    libraries: frozenset[str]


# -------------------------------------------------------------------------------------------- who made this?


def of_builder(builder: Callable[..., Any]) -> Code:
    """The code of a stage: what its builder's module reaches, without what counts otherwise.

    A function from outside helpers/ (a notebook's cell, a test) counts by its own source and what that imports.
    """
    return _of_function(builder, stage=True)


def of_function(function: Callable[..., Any]) -> Code:
    """The code of all that a function's module reaches, the stages that it asks for included."""
    return _of_function(function, stage=False)


def of_cells(cells: Iterable[str]) -> Code:
    """The code that a notebook's code cells import, the stages that they ask for included."""
    tree = _tree(SOURCES)
    modules, libraries = set(), set()
    for cell in cells:
        imported, used = _imports(tree, parse(_plain_python(cell)), "")
        modules |= imported
        libraries |= used
    return tree.code(modules, libraries, stage=False)


def is_unchanged(code: Any, versions: Any) -> bool:
    """Whether recorded code and versions are those of now; False for a record of another shape."""
    if not (isinstance(code, dict) and isinstance(versions, dict)):
        return False
    tree = _tree(SOURCES)
    same_code = all(tree.hash_of(file) == known for file, known in code.items())
    return same_code and all(installed(name) == known for name, known in versions.items() if name != "processes")


def installed(library: str) -> str:
    """The version of a library as it is recorded."""
    return files.version(library) or "not installed"


def _of_function(function: Callable[..., Any], *, stage: bool) -> Code:
    while isinstance(function, partial):
        function = function.func
    tree, module = _tree(SOURCES), function.__module__ or ""
    if module.startswith("helpers.") and tree.file(module.removeprefix("helpers.")):
        return tree.code([module.removeprefix("helpers.")], (), stage=stage)
    try:
        text = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):  # typed into python -c, or written in C
        return Code({}, {})
    modules, libraries = _imports(tree, parse(text), "")
    found = tree.code(modules, libraries, stage=stage)
    return Code({f"{module}.{function.__name__}": _short_hash(meaning(text))} | found.code, found.versions)


# ------------------------------------------------------------------------------------------ following imports


class Tree:
    """The source files of a package folder such as helpers/, each read once: what a process runs was read once too.

    Modules go by their dotted name below the folder: "stages.data"; the folder's own __init__.py is "".
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.known: dict[str, Module] = {}
        self.hashes: dict[str, str | None] = {}
        self.content: dict[str, list[Path]] = {}

    def file(self, name: str) -> Path | None:
        """The source file of a module or package; None where there is none of that name."""
        *folders, last = name.split(".")
        place = self.root.joinpath(*folders)
        return next((path for path in (place / f"{last}.py", place / last / "__init__.py") if path.is_file()), None)

    def read(self, name: str) -> Module:
        """A module that is there, parsed."""
        if name not in self.known:
            path = self.file(name)
            text = path.read_text(encoding="utf-8")
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            parsed = parse(text)
            self.known[name] = Module(meaning(text, parsed), *_imports(self, parsed, package))
        return self.known[name]

    def reached(self, start: Iterable[str], *, stage: bool) -> set[str]:
        """The modules that count for one that imports `start`. stage: see COUNTED_OTHERWISE and STAGE_GRAPH."""
        own, todo, found = set(start), sorted(start), set()
        while todo:
            name = todo.pop()
            if name in found or (stage and name not in own and _counts_otherwise(name)):
                continue
            for module in self._counted_with(name):
                found.add(module)
                imported = self.read(module).modules
                if stage and module not in own and _top(module) == STAGES:
                    imported = {other for other in imported if _top(other) in BY_MODULE}
                todo += sorted(imported - found)
        return found

    def _counted_with(self, name: str) -> list[str]:
        """The modules of the package folder that a module stands in, or the module alone where it counts alone."""
        folder = self.file(name).parent
        if self._counts_alone(name):
            return [name]
        modules = (path.relative_to(self.root).with_suffix("") for path in folder.glob("*.py"))
        return sorted(".".join(module.parts).removesuffix(".__init__") for module in modules)

    def _counts_alone(self, name: str) -> bool:
        return _top(name) in BY_MODULE or self.file(name).parent == self.root

    def code(self, start: Iterable[str], libraries: Iterable[str], *, stage: bool) -> Code:
        """Hashes of what is reached from `start`, and versions of `libraries` and of those that it imports."""
        modules = self.reached(start, stage=stage)
        files, used = set(), set(libraries)
        for name in modules:
            used |= self.read(name).libraries
            if name not in self.content:
                self.content[name] = self._content_of(name)
            files |= {self.file(name), *self.content[name]}
        shown = sorted(path.relative_to(self.root).as_posix() for path in files)
        names = sorted(LIBRARIES[library] for library in used & LIBRARIES.keys())
        return Code({file: self.hash_of(file) for file in shown}, {name: installed(name) for name in names})

    def hash_of(self, file: str) -> str | None:
        """The hash of a file below the folder: of a module what it does, of other files all of it; None without it."""
        if file not in self.hashes:
            self.hashes[file] = self._hash(file)
        return self.hashes[file]

    def _hash(self, file: str) -> str | None:
        if not (self.root / file).is_file():
            return None
        if not file.endswith(".py"):
            return hashlib.sha256((self.root / file).read_bytes()).hexdigest()[:16]
        name = file.removesuffix(".py").replace("/", ".")
        return _short_hash(self.read(name.removesuffix("__init__").removesuffix(".")).text)

    def _content_of(self, name: str) -> list[Path]:
        """The data files that count with a module: those of its package, else those that it names, or they name."""
        folder = self.file(name).parent
        if not self._counts_alone(name):
            data = (file for file in folder.rglob("*") if file.suffix in CONTENT)
            return sorted(file for file in data if _package_of(file) == folder)
        beside = [file for file in sorted(folder.iterdir()) if file.suffix in CONTENT]
        text, found = self.read(name).text, []
        while named := [file for file in beside if file not in found and file.name in text]:
            found += named
            text += "".join(file.read_text(encoding="utf-8") for file in named)
        return found


def _package_of(file: Path) -> Path:
    """The nearest folder above a file that is a package."""
    return next(folder for folder in file.parents if (folder / "__init__.py").is_file())


@cache
def _tree(root: Path) -> Tree:
    return Tree(root)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _counts_otherwise(name: str) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:end]) in COUNTED_OTHERWISE for end in range(1, len(parts) + 1))


def _imports(tree: Tree, parsed: ast.Module | None, package: str) -> tuple[frozenset[str], frozenset[str]]:
    """What some source imports: modules of the tree, and top names of libraries. `package`: where it stands."""
    modules, libraries = set(), set()
    for node in statements(parsed):
        for base, name in _imported(node, package):
            inside = base.removeprefix("helpers").removeprefix(".")
            if base.partition(".")[0] != "helpers":
                libraries.add(base.partition(".")[0])
            elif name and tree.file(f"{inside}.{name}".lstrip(".")):
                modules.add(f"{inside}.{name}".lstrip("."))
            elif tree.file(inside):
                modules.add(inside)
    return frozenset(modules), frozenset(libraries)


def _imported(node: ast.AST, package: str) -> Iterator[tuple[str, str]]:
    """(absolute module, name taken from it or "") for each thing that an import statement names."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, "") for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = ["helpers", *filter(None, package.split("."))]
            base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
        yield from ((base, alias.name) for alias in node.names)


def _plain_python(cell: str) -> str:
    """A notebook's cell without IPython's own lines (%magic and !command)."""
    return "\n".join(line for line in cell.splitlines() if not line.lstrip().startswith(("%", "!")))


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
