"""Which code made a thing: the modules that its builder imports, and the versions of the libraries that they use.

Import statements are followed from the builder's module through helpers/, those inside functions too, those under
`if TYPE_CHECKING:` not. If one module of a package is reached, all modules of that package count. Comments, docstrings
and empty lines do not count: they may be changed without new trainings.
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
# Packages of which only the reached modules count, because every builder reaches some of them.
BY_MODULE = ("core", "pipeline")
# The package that holds the stages. What another stage made is an input of a stage and counts by its content. So the
# other modules of this package count by their own text, without the training code that they import for their stages.
STAGES = "pipeline"
# Modules that do not count for a stage, each with the reason. For a notebook they count, as it shows what they do.
COUNTED_OTHERWISE = {
    "core.settings": "the values that a stage uses are among what it is made from",
    "core.profiles": "its values are settings",
    "core.errors": "writes messages, changes nothing that is made",
    "core.progress": "shows how far a run is, changes nothing that is made",
    "core.quiet": "decides what libraries print",
    "core.text": "writes numbers for readers",
    "core.files": "decides how files are kept, not what is in them",
    "core.store": "decides when a thing is made again, not how",
    "core.source_text": "helps to say what made a thing",
    "core.code": "says what made a thing, does not make it",
    "pipeline.run": "opens a run and keeps its stages",
    "pipeline.parameters": "reads settings, whose values are among what a stage is made from",
}
# The libraries whose version may change a result: import name -> name of the package that is installed.
_SAME_NAME = (
    *("torch", "transformers", "trl", "peft", "accelerate", "tokenizers", "datasets", "ctranslate2", "safetensors"),
    *("numpy", "scipy", "pandas", "statsmodels", "matplotlib", "cleanlab", "datasketch"),
)
LIBRARIES = dict(zip(_SAME_NAME, _SAME_NAME, strict=True))
LIBRARIES |= {"sklearn": "scikit-learn", "huggingface_hub": "huggingface-hub"}
# Data files beside modules, which count by their content.
CONTENT = {".toml", ".json", ".yaml", ".yml", ".j2"}


class Code(NamedTuple):
    """What made a thing. code: file below helpers/ -> hash. versions: library -> installed version."""

    code: dict[str, str]
    versions: dict[str, str]


class Module(NamedTuple):
    """One source file.

    text: without comments and docstrings. modules: those of helpers/ that it imports. libraries: others, by top name.
    """

    text: str
    modules: frozenset[str]
    libraries: frozenset[str]


# --------------------------------------------------------------------------------------- the code of a builder


def of_builder(builder: Callable[..., Any]) -> Code:
    """The code that makes a stage: what its builder's module reaches, without the modules of COUNTED_OTHERWISE.

    builder: a function of helpers/. One from outside (a notebook's cell, a test) counts by its own source and by what
    that imports.
    """
    return _of_function(builder, stage=True)


def of_function(function: Callable[..., Any]) -> Code:
    """The code of all that a function's module reaches, with the stages that it needs."""
    return _of_function(function, stage=False)


def of_cells(cells: Iterable[str]) -> Code:
    """The code of all that a notebook's code cells import, with the stages that they need."""
    tree = _tree(SOURCES)
    modules, libraries = set(), set()
    for cell in cells:
        imported, used = _imports(tree, parse(_plain_python(cell)), "")
        modules |= imported
        libraries |= used
    return tree.code(modules, libraries, stage=False)


def is_unchanged(code: Any, versions: Any) -> bool:
    """Whether the code and the versions of a record are the present ones; False for a record of another shape."""
    if not (isinstance(code, dict) and isinstance(versions, dict)):
        return False
    tree = _tree(SOURCES)
    for file, known in code.items():
        if tree.hash_of(file) != known:
            return False
    # "processes" is a number of processes among the versions: it can only be compared in a run.
    return all(name == "processes" or installed(name) == known for name, known in versions.items())


def installed(library: str) -> str:
    """The installed version of a library as it stands in a record."""
    return files.version(library) or "not installed"


def _of_function(function: Callable[..., Any], *, stage: bool) -> Code:
    """The code of a function; see `of_builder` and `of_function`."""
    while isinstance(function, partial):
        function = function.func
    # A function of helpers/: its module.
    tree, module = _tree(SOURCES), function.__module__ or ""
    if module.startswith("helpers.") and tree.file(module.removeprefix("helpers.")):
        return tree.code([module.removeprefix("helpers.")], (), stage=stage)
    # A function from outside: its own source.
    try:
        text = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):  # typed into python -c, or written in C
        return Code({}, {})
    modules, libraries = _imports(tree, parse(text), "")
    found = tree.code(modules, libraries, stage=stage)
    own = {f"{module}.{function.__name__}": _short_hash(meaning(text))}
    return Code({**own, **found.code}, found.versions)


# ------------------------------------------------------------------------------------------ following imports


class Tree:
    """The source files of a package's folder, such as helpers/.

    Each file is read once: a process runs the code that it imported at first, whatever is written to the file later.
    A module's name is its dotted name below the folder, such as "pipeline.run"; the folder's own __init__.py is "".
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
        for path in (place / f"{last}.py", place / last / "__init__.py"):
            if path.is_file():
                return path
        return None

    def read(self, name: str) -> Module:
        """Read a module that exists."""
        if name not in self.known:
            path = self.file(name)
            text = path.read_text(encoding="utf-8")
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            parsed = parse(text)
            self.known[name] = Module(meaning(text, parsed), *_imports(self, parsed, package))
        return self.known[name]

    def reached(self, start: Iterable[str], *, stage: bool) -> set[str]:
        """The modules that count for code that imports `start`. stage: whether it is a stage: see COUNTED_OTHERWISE."""
        own, todo, found = set(start), sorted(start), set()
        while todo:
            name = todo.pop()
            if name in found:
                continue
            if stage and name not in own and _is_counted_otherwise(name):
                continue
            # With a module counts its package; follow the imports of all of it.
            for module in self._counted_with(name):
                found.add(module)
                imported = self.read(module).modules
                # Of another stage's module only what decides which inputs a stage gets: see STAGES.
                if stage and module not in own and _top(module) == STAGES:
                    imported = {other for other in imported if _top(other) in BY_MODULE}
                todo += sorted(imported - found)
        return found

    def _counted_with(self, name: str) -> list[str]:
        """The modules of the package in which a module is; the module alone where its package counts by module."""
        if self._counts_alone(name):
            return [name]
        found = []
        for path in self.file(name).parent.glob("*.py"):
            module = ".".join(path.relative_to(self.root).with_suffix("").parts)
            found.append(module.removesuffix(".__init__"))
        return sorted(found)

    def _counts_alone(self, name: str) -> bool:
        """Whether a module counts without its package: in the packages of BY_MODULE, and directly in the folder."""
        return _top(name) in BY_MODULE or self.file(name).parent == self.root

    def code(self, start: Iterable[str], libraries: Iterable[str], *, stage: bool) -> Code:
        """The code for `start`: hashes of the files that are reached, and versions of libraries.

        start: names of modules. libraries: those that count beside the ones that the modules import.
        """
        modules = self.reached(start, stage=stage)
        files, used = set(), set(libraries)
        # The files of each module, and the libraries that it imports.
        for name in modules:
            used |= self.read(name).libraries
            if name not in self.content:
                self.content[name] = self._content_of(name)
            files |= {self.file(name), *self.content[name]}
        # Their hashes and versions.
        names = sorted(path.relative_to(self.root).as_posix() for path in files)
        packages = sorted(LIBRARIES[library] for library in used & LIBRARIES.keys())
        return Code({name: self.hash_of(name) for name in names}, {name: installed(name) for name in packages})

    def hash_of(self, file: str) -> str | None:
        """The hash of a file below the folder, None where it is missing.

        Of a module without comments and docstrings, of any other file with everything.
        """
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
        """The data files that count with a module: all of its package, or those that its text names.

        A module that counts alone has the files beside it that its text names, and those that these files name.
        """
        folder = self.file(name).parent
        if not self._counts_alone(name):
            data = [file for file in folder.rglob("*") if file.suffix in CONTENT]
            return sorted(file for file in data if _package_of(file) == folder)
        beside = [file for file in sorted(folder.iterdir()) if file.suffix in CONTENT]
        text, found = self.read(name).text, []
        while named := [file for file in beside if file not in found and file.name in text]:
            found += named
            for file in named:
                text += file.read_text(encoding="utf-8")
        return found


def _package_of(file: Path) -> Path:
    """The nearest folder above a file that is a package."""
    return next(folder for folder in file.parents if (folder / "__init__.py").is_file())


@cache
def _tree(root: Path) -> Tree:
    """The tree of a folder, read once a process."""
    return Tree(root)


def _top(name: str) -> str:
    """The package of a module directly below helpers/: "data" for "data.audit.duplicates"."""
    return name.partition(".")[0]


def _is_counted_otherwise(name: str) -> bool:
    """Whether a module, or a package in which it is, stands in COUNTED_OTHERWISE."""
    while name:
        if name in COUNTED_OTHERWISE:
            return True
        name = name.rpartition(".")[0]
    return False


def _imports(tree: Tree, parsed: ast.Module | None, package: str) -> tuple[frozenset[str], frozenset[str]]:
    """What a source file imports: modules of the tree, and libraries by top name. package: the one in which it is."""
    modules, libraries = set(), set()
    for node in statements(parsed):
        for base, name in _imported(node, package):
            if _top(base) != "helpers":
                libraries.add(_top(base))
                continue
            # `from package import name` imports a module of that name, or the package.
            inside = base.removeprefix("helpers").removeprefix(".")
            if name and tree.file(f"{inside}.{name}".lstrip(".")):
                modules.add(f"{inside}.{name}".lstrip("."))
            elif tree.file(inside):
                modules.add(inside)
    return frozenset(modules), frozenset(libraries)


def _imported(node: ast.AST, package: str) -> Iterator[tuple[str, str]]:
    """For each name of an import statement the module, as an absolute name, and the name taken from it or ""."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, ""
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        # A relative import: each dot beyond the first goes up by one package.
        if node.level:
            parts = ["helpers", *filter(None, package.split("."))]
            base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
        for alias in node.names:
            yield base, alias.name


def _plain_python(cell: str) -> str:
    """A notebook's cell without the lines that only IPython understands (%magic and !command)."""
    return "\n".join(line for line in cell.splitlines() if not line.lstrip().startswith(("%", "!")))


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
