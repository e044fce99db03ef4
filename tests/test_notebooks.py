"""Hygiene of the saved notebooks: executed in order, no errors, nothing of one machine, parameters in shape."""

import ast
import base64
import importlib
import json
import re
import types
from itertools import chain

import pytest

from helpers.core.profiles import ROOT
from helpers.core.settings import Settings, resolve
from helpers.course import notebooks

NOTEBOOKS = notebooks()
PARAMETER = re.compile(r"(\w+)(?:: (?:Optional\[(?:str|int|float|bool)\]|str|int|float|bool))? = (.+?)(?:  # .+)?")
MACHINE = re.compile(
    r"(?<![\w.:/])/(?:home|root|work|tmp|Users|private|var|opt|usr)/[\w.-]+|[A-Z]:\\\\Users|0x[0-9a-f]{8,}"
)
CLOCK = re.compile(
    r"\b\d{1,2}:\d\d:\d\d\b|\b20\d\d-\d\d-\d\dT|\b(?:it/s|s/it|wall time|cpu times|elapsed)\b"
    r"|\b\d+(?:\.\d+)? ?(?:ms|µs|sec|secs|seconds)\b",
    flags=re.I,
)
LINK = re.compile(r"\]\((?!\w+:|//)([^)\s#]*)(?:#([^)\s]+))?\)")

pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks yet")
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell):
    return "".join(cell["source"])


def code(path):
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code" and source(cell).strip()]


def outputs(path):
    return list(chain.from_iterable(cell["outputs"] for cell in code(path)))


def words(output):
    """Everything an output says in words: streams, and each text form of a result."""
    forms = output.get("data", {})
    parts = [output.get("text", "")] + [text for kind, text in forms.items() if not kind.startswith("image/")]
    return "\n".join("".join(part) if isinstance(part, list) else str(part) for part in parts)


def parameters_cell(path):
    tagged = [cell for cell in code(path) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1, "exactly one cell is tagged parameters"
    return tagged[0]


def parameters(path):
    """name -> default of the parameters cell; every line is a comment, blank, or one plain scalar."""
    first, *lines = source(parameters_cell(path)).splitlines()
    assert first.startswith("# Parameters")
    found = {}
    for line in lines:
        if line.strip() and not line.startswith("#"):
            shape = PARAMETER.fullmatch(line)
            assert shape, f"not `name: type = scalar  # comment`: {line}"
            found[shape[1]] = ast.literal_eval(shape[2])
    assert all(value is None or isinstance(value, str | int | float | bool) for value in found.values())
    return found


def test_notebooks_are_numbered_once_from_00():
    numbers = [int(path.stem[:2]) for path in NOTEBOOKS]
    assert numbers == sorted(set(numbers)) and numbers[0] == 0


@each_notebook
def test_executed_in_order_from_1(path):
    assert [cell["execution_count"] for cell in code(path)] == list(range(1, len(code(path)) + 1))


@each_notebook
def test_no_errors_and_nothing_on_stderr(path):
    assert [o.get("ename") for o in outputs(path) if o["output_type"] == "error"] == []
    assert [words(o)[:200] for o in outputs(path) if o.get("name") == "stderr"] == []


@each_notebook
def test_no_widgets_and_no_traces_of_one_execution(path):
    nb = read(path)
    assert {"widgets", "papermill"} & nb["metadata"].keys() == set()
    assert "version" not in nb["metadata"]["language_info"]
    assert nb["metadata"]["kernelspec"]["name"] == "python3"
    for cell in nb["cells"]:
        assert {"papermill", "execution"} & cell["metadata"].keys() == set()
        assert "injected-parameters" not in cell["metadata"].get("tags", [])
    assert not [o for o in outputs(path) if any("widget" in kind for kind in o.get("data", {}))]


@each_notebook
def test_nothing_of_one_machine_and_no_clock(path):
    texts = [words(output) for output in outputs(path)]
    assert [hit.group() for text in texts for hit in MACHINE.finditer(text)] == []
    assert [hit.group() for text in texts for hit in CLOCK.finditer(text)] == []
    assert [hit.group() for cell in read(path)["cells"] for hit in MACHINE.finditer(source(cell))] == []


@each_notebook
def test_parameters_are_plain_settings_with_the_defaults_of_the_reference_run(path):
    found = parameters(path)
    assert found, "a notebook without parameters cannot be run on other data"
    assert found.keys() <= Settings.model_fields.keys(), found.keys() - Settings.model_fields.keys()
    assert resolve(**found).run_name == "mini"


@each_notebook
def test_papermill_sees_every_parameter(path):
    import papermill

    assert papermill.inspect_notebook(str(path)).keys() == parameters(path).keys()


@each_notebook
def test_parameters_are_checked_right_after_their_cell(path):
    cells = code(path)
    check = cells[cells.index(parameters_cell(path)) + 1]
    assert "open_run(globals())" in source(check)


@each_notebook
def test_every_picture_has_alt_text(path):
    for output in outputs(path):
        data = output.get("data", {})
        if "image/png" in data:
            alt = output["metadata"].get("image/png", {}).get("alt", "")
            assert len(alt.split()) >= 4, "a picture without alt text: show it with style.show"
            assert base64.b64decode("".join(data["image/png"])).startswith(b"\x89PNG")
        for image in re.findall(r"<img\b[^>]*>|<svg\b[^>]*>", words(output)):
            assert re.search(r'\b(?:alt|aria-label)="[^"]+"', image), image[:80]
    for cell in read(path)["cells"]:
        if cell["cell_type"] == "markdown":
            assert "![](" not in source(cell), "an image without alt text"


@each_notebook
def test_links_resolve(path):
    for cell in read(path)["cells"]:
        if cell["cell_type"] != "markdown":
            continue
        for target, anchor in LINK.findall(source(cell)):
            place = (path.parent / target).resolve() if target else path
            assert place.exists() and place.is_relative_to(ROOT), f"no such file: {target}"
            if anchor and place.suffix == ".ipynb":
                assert anchor in anchors(place), f"no such heading: {target}#{anchor}"


def anchors(path):
    """Anchors of the headings of a notebook, as JupyterLab makes them: spaces become hyphens."""
    texts = [source(cell) for cell in read(path)["cells"] if cell["cell_type"] == "markdown"]
    headings = [heading for text in texts for heading in re.findall(r"^#+ +(.+?) *$", text, flags=re.M)]
    return {heading.replace(" ", "-") for heading in headings}


@each_notebook
def test_every_name_of_the_package_that_a_notebook_uses_is_there(path):
    """Seconds instead of the minutes of an execution, and also for cells that only other settings reach."""
    trees = [ast.parse(re.sub(r"^\s*[%!].*$", "pass", source(cell), flags=re.M)) for cell in code(path)]
    modules = {}
    for node in chain.from_iterable(map(ast.walk, trees)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "helpers":
            for alias in node.names:
                found = importlib.import_module(node.module)
                if not hasattr(found, alias.name):
                    found = importlib.import_module(f"{node.module}.{alias.name}")
                modules[alias.asname or alias.name] = getattr(found, alias.name, found)
    used = {
        (node.value.id, node.attr)
        for node in chain.from_iterable(map(ast.walk, trees))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    kept = [(name, attribute) for name, attribute in used if isinstance(modules.get(name), types.ModuleType)]
    assert [f"{name}.{attribute}" for name, attribute in kept if not hasattr(modules[name], attribute)] == []
