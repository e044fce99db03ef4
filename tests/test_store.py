"""Up to date by one rule: which code counts, what is said when something changed, damage, and what is accepted."""

import ast
import gzip
import io
import json
import os
import subprocess
import sys
import textwrap
import time
import tokenize
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers
from helpers.core import code, distributed, files, store
from helpers.core.errors import StageError
from helpers.core.profiles import ROOT
from helpers.models import loading
from helpers.pipeline import policies, stages
from helpers.pipeline import run as run_module

# ------------------------------------------------------------------------------------------------ what code does


def words(text):
    """The tokens of a source that do something, docstrings aside."""
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            docstrings.add(node.body[0].lineno)
    idle = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in idle and not (token.type == tokenize.STRING and token.start[0] in docstrings):
            yield token.string


@pytest.mark.parametrize("path", sorted(code.SOURCES.rglob("*.py")), ids=lambda path: path.name)
def test_only_words_for_people_are_left_out(path):
    text = path.read_text(encoding="utf-8")
    left = code.meaning(text)
    kept = [t.string for t in tokenize.generate_tokens(io.StringIO(left).readline) if t.string.strip()]
    assert kept == [word for word in words(text) if word.strip()]
    assert code.meaning(left) == left or "class " in left  # a class of a docstring alone is no Python without it


SOURCE = textwrap.dedent('''\
    """Module."""
    import os

    TEXT = """one  # no comment

    two"""


    def f(x):
        """What it does: déjà vu."""
        return f"""{x}

    # {x!r}""" + "#"
    ''')


@given(
    st.integers(0, 20),
    st.sampled_from(["\n", "\n\n", "# words\n", '    # words, déjà vu """ \'\n']),
)
def test_a_comment_or_an_empty_line_changes_nothing_outside_strings(place, added):
    lines = io.StringIO(SOURCE).readlines()
    place = min(place, len(lines))
    changed = "".join([*lines[:place], added, *lines[place:]])
    inside = place in (4, 5, 11, 12)  # before a line that begins inside a string
    assert (code.meaning(changed) == code.meaning(SOURCE)) != inside


def test_docstrings_and_comments_beside_code_may_be_mended():
    assert code.meaning(SOURCE.replace("déjà", "deja").replace("Module.", "Mo\n\ndule")) == code.meaning(SOURCE)
    assert code.meaning("x = 1  # one\n") == code.meaning("x = 1\n") == "x = 1\n"
    assert code.meaning("x = (\n    'a'  # one\n\n    # two\n    'b'\n)\n") == "x = (\n    'a'\n    'b'\n)\n"
    for other in (SOURCE.replace("two", "2"), SOURCE.replace("one  #", "one #"), SOURCE.replace("return f", "return ")):
        assert code.meaning(other) != code.meaning(SOURCE)


# ------------------------------------------------------------------------------------------------ which code counts

STYLES = (
    "from helpers import {name}",
    "from helpers.{name} import something",
    "import helpers.{name}",
    "from . import {name} as other",
    "from .{name} import something",
    "def f():\n    if f:\n        from . import {name}",
    "class A:\n    def f(self):\n        with self:\n            import helpers.{name} as other",
    "try:\n    pass\nexcept ImportError:\n    from .{name} import *",
)
IGNORED = (
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import {name}",
    "import typing\nif typing.TYPE_CHECKING:\n    from helpers.{name} import something",
    '"""from . import {name}"""',
    "text = 'import helpers.{name}'",
)
NAMES = "abcde"
EDGES = st.dictionaries(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), st.sampled_from(STYLES + IGNORED), max_size=10
)


def package(root, files):
    for name, text in ({"__init__.py": ""} | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return code.Tree(root)


@given(EDGES)
def test_imports_are_followed_as_far_as_they_lead(tmp_path_factory, edges):
    sources = {name: [] for name in NAMES}
    for (one, other), style in edges.items():
        sources[one].append(style.format(name=other))
    root = tmp_path_factory.mktemp("tree")
    tree = package(root, {f"{name}.py": "\n".join(lines) for name, lines in sources.items()})
    expected, todo = set(), ["a"]
    while todo:
        if (name := todo.pop()) not in expected:
            expected.add(name)
            todo += [other for (one, other), style in edges.items() if one == name and style in STYLES]
    assert tree.reached(["a"], stage=False) - {""} == expected


@pytest.fixture
def tree(tmp_path):
    """A package as the course's, small: two whole packages, core and pipeline by module, a plot that nobody imports."""
    files = {
        "__init__.py": "def __getattr__(name):\n    from helpers.pipeline.run import open_run",
        "core/__init__.py": "from . import files",
        "core/errors.py": "",
        "core/numbers.py": "import numpy",
        "core/unused.py": "",
        "models/__init__.py": "",
        "models/loading.py": "import torch\nfrom ..core import numbers",
        "models/other.py": "",
        "models/sizes.toml": "a = 1",
        "training/__init__.py": "",
        "training/loop.py": "from ..models import loading\nimport trl",
        "pipeline/__init__.py": "",
        "pipeline/run.py": "import pandas",
        "pipeline/policies.py": "from ..core import errors\nfrom .run import Run\n"
        "def sft():\n    from ..training import loop",
        "pipeline/answers.py": "from .policies import policy\nfrom ..models import loading",
        "report/plots.py": "import matplotlib",
        "flat.py": "NAMED = 'flat.html.j2'",
        "flat.html.j2": "{% include 'part.html.j2' %}",
        "part.html.j2": "",
        "lonely.html.j2": "",
    }
    return package(tmp_path / "helpers", files)


WHOLE_MODELS = {"models/__init__.py", "models/loading.py", "models/other.py", "models/sizes.toml"}


def test_packages_count_as_a_whole_and_core_by_module(tree):
    training_code = {"training/__init__.py", "training/loop.py", "core/numbers.py", *WHOLE_MODELS}
    made = tree.code(["pipeline.policies"], (), stage=True)
    assert set(made.code) == {"pipeline/policies.py", *training_code}
    assert set(made.versions) == {"numpy", "torch", "trl"} and made.versions["torch"] == files.version("torch")


def test_a_stage_takes_what_other_stages_made_by_content_and_a_notebook_counts_all(tree):
    answers = tree.code(["pipeline.answers"], (), stage=True)
    own = {"pipeline/answers.py", "pipeline/policies.py", "core/numbers.py", *WHOLE_MODELS}
    assert set(answers.code) == own
    shown = tree.code(["pipeline.answers"], (), stage=False)
    assert set(shown.code) == own | {"pipeline/run.py", "core/errors.py", "training/__init__.py", "training/loop.py"}


def test_data_beside_a_module_counts_where_it_is_named(tree):
    assert set(tree.code(["flat"], (), stage=True).code) == {"flat.py", "flat.html.j2", "part.html.j2"}


def test_the_code_of_cells(tree, monkeypatch):
    monkeypatch.setattr(code, "SOURCES", tree.root)
    cells = ["%matplotlib inline\nfrom helpers import open_run\n!ls", "import helpers.flat", "this is no Python"]
    made = code.of_cells(cells)
    assert {"__init__.py", "pipeline/run.py", "flat.py"} <= set(made.code) and "pandas" in made.versions
    assert code.of_cells(["x = 1"]) == code.Code({}, {})


def test_a_function_from_elsewhere_counts_by_its_source():
    def make(text):
        names = {}
        exec(compile(text, "cell", "exec"), names)
        return names["f"]

    def build(folder):
        from helpers.training import losses  # noqa: F401

    made = code.of_builder(partial(build))
    assert {f"{__name__}.build", "training/losses.py"} <= set(made.code) and "torch" in made.versions
    assert code.of_builder(make("def f(): pass")) == code.Code({}, {}), "its source is nowhere"


def test_trainings_count_trainings_and_no_plots(results):
    """On the real package: what the stages of a run reach."""
    made = code.of_builder(policies._trained)
    reached = {file.removesuffix(".py") for file in made.code}
    assert {"training/sft", "training/loop", "models/loading", "models/generation", "core/methods"} <= reached
    assert not reached & {"course", "pipeline/run", "pipeline/responses", "core/settings"}
    assert not any(file.startswith(("data/audit", "planning", "experiments", "report")) for file in reached)
    assert {"torch", "transformers", "trl", "peft"} <= made.versions.keys()
    asked = code.of_builder(stages.responses)
    assert "models/generation.py" in asked.code
    assert not any(file.startswith(("training", "report")) for file in asked.code)


def test_every_module_that_counts_otherwise_is_there():
    assert all(code._tree(code.SOURCES).file(name) for name in code.COUNTED_OTHERWISE)
    assert all(reason for reason in code.COUNTED_OTHERWISE.values())


# ----------------------------------------------------------------------------------------------- stages of a run


@pytest.fixture
def run(results):
    return helpers.open_run(profile="smoke")


@pytest.fixture
def trained(monkeypatch):
    """Trainings that write a line instead of a model; how often each was asked."""
    asked = []

    def train(kind, policy, train, heldout, settings, folder, **_):
        asked.append(kind)
        (folder / "model").mkdir()
        (folder / "model" / "model.safetensors").write_text(f"{kind} {settings.seed}")
        (folder / "model" / "tokenizer.json").write_text("{}")

    monkeypatch.setattr("helpers.training.sft.train_sft", partial(train, "sft"))
    monkeypatch.setattr("helpers.training.dpo.train_preferences", partial(train, "dpo"))
    real = loading.load_tokenizer
    monkeypatch.setattr(loading, "load_tokenizer", lambda where: real(stages.EMBEDDED["policy"]))
    return asked


def test_other_training_code_trains_anew_and_says_why(run, edited, trained, capsys):
    stages.policy(run, "sft_dpo")
    stages.policy(run, "sft_dpo")
    assert trained == ["sft", "dpo"]
    capsys.readouterr()
    edited("training/arguments.py", '"lr_scheduler_type": "linear"', '"lr_scheduler_type": "cosine"')
    stages.policy(run, "sft")
    assert capsys.readouterr().out == "stage sft: training code changed since (arguments); building it again\n"
    assert trained == ["sft", "dpo", "sft"]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("report/plots/training.py", "import math", "import math\n\nNEW = 1"),
        ("report/page.py", "WORLDS = {", "NEW = 1\nWORLDS = {"),
        ("planning/plan.py", "import math", "import math\n\nNEW = 1"),
        ("core/profiles.py", "ROOT = ", "NEW = 1\nROOT = "),
        (
            "training/loop.py",
            'MEASURED = ["loss"',
            '# What is logged\n\nMEASURED = ["loss"',
        ),
        ("training/sft.py", '"""Supervised', '"""Other words. Supervised'),
    ],
)
def test_what_does_not_train_makes_no_training_anew(run, edited, trained, capsys, file, old, new):
    stages.policy(run, "sft")
    capsys.readouterr()
    edited(file, old, new)
    stages.policy(run, "sft")
    assert trained == ["sft"] and capsys.readouterr().out == ""


def test_an_input_that_comes_out_the_same_makes_nothing_else_anew(run, edited, trained, capsys):
    stages.policy(run, "sft")
    edited("data/audit/row_checks.py", "import pandas as pd", "import pandas as pd\n\nNEW = 1")
    capsys.readouterr()
    stages.policy(run, "sft")
    assert capsys.readouterr().out == "stage pairs: data/audit code changed since (row_checks); building it again\n"
    assert trained == ["sft"]

    def build(text, calls, folder):
        calls.append(1)
        (folder / "out.txt").write_text(text)

    first, second = [], []
    for version in (1, 2):
        made = run.stage("first", uses={"version": version}, build=partial(build, "same", first))
        run.stage("second", uses={}, needs=[made], build=partial(build, "later", second))
    assert (len(first), len(second)) == (2, 1)
    made = run.stage("first", uses={"version": 3}, build=partial(build, "other", first))
    capsys.readouterr()
    run.stage("second", uses={}, needs=[made], build=partial(build, "later", second))
    assert len(second) == 2 and "stage second: input first changed; building it again" in capsys.readouterr().out


def parts(**changed):
    usual = {"uses": {"lr": 3e-4, "names": ("a", "b")}, "inputs": {"pairs": "1", "sft": "2"}}
    usual |= {"code": {"models.py": "3", "training/loop.py": "4", "training/sft.py": "5"}, "versions": {"trl": "1.0"}}
    return store.Parts(**(usual | changed))


def write(folder):
    (folder / "out.txt").write_text("made")


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"uses": {"lr": 1e-4, "names": ["a", "b"]}}, "settings changed: lr 0.0003 -> 0.0001"),
        ({"uses": {"lr": 3e-4, "names": ["a", "b"], "new": 1}}, "settings changed: new none -> 1"),
        ({"inputs": {"pairs": "9", "sft": "2"}}, "input pairs changed"),
        (
            {"code": {"models.py": "9", "training/loop.py": "9", "training/sft.py": "9"}},
            "code changed since (models); training code changed since (loop, sft)",
        ),
        ({"versions": {"trl": "1.1", "peft": "2"}}, "peft none -> 2; trl 1.0 -> 1.1"),
        (
            {"uses": {"lr": 1.0}, "inputs": {}, "versions": {"trl": "2"}},
            "settings changed: lr 0.0003 -> 1.0, names ['a', 'b'] -> none; input pairs changed; and 2 more",
        ),
    ],
)
def test_one_line_says_what_changed(tmp_path, capsys, changed, line):
    folder = store.make(tmp_path / "things" / "sft", parts(), write, "stage sft")
    assert capsys.readouterr().out == ""
    store.make(folder, parts(**changed), write, "stage sft")
    assert capsys.readouterr().out == f"stage sft: {line}; building it again\n"
    store.make(folder, parts(**changed), write, "stage sft")
    assert capsys.readouterr().out == ""


# -------------------------------------------------------------------------------------------------- accepted


def test_only_code_and_versions_are_accepted_and_the_reason_is_kept(tmp_path, monkeypatch, capsys):
    folder = store.make(tmp_path / "things" / "sft", parts(), write, "stage sft")
    other = parts(code={}, versions={"trl": "9"})
    monkeypatch.setenv(store.ACCEPT_STALE, "1")
    for _ in range(2):
        assert store.usable(folder, other, "stage sft")
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.startswith("stage sft: code changed since (models); training code changed")
    assert store.accepted(folder.parent).keys() == {"sft"} and "and 1 more" in store.accepted(folder.parent)["sft"]
    assert not store.usable(folder, parts(code={}, uses={}), "stage sft")
    assert not store.usable(folder, parts(code={}, inputs={}), "stage sft")
    monkeypatch.setenv(store.ACCEPT_STALE, "0")
    assert not store.usable(folder, other, "stage sft") and store.accepted(folder.parent) == {}
    store.make(folder, other, write, "stage sft")
    monkeypatch.setenv(store.ACCEPT_STALE, "1")
    assert store.accepted(folder.parent) == {}


def test_a_damaged_thing_is_never_accepted(tmp_path, monkeypatch):
    folder = store.make(tmp_path / "things" / "sft", parts(), write, "stage sft")
    monkeypatch.setenv(store.ACCEPT_STALE, "1")
    (folder / "out.txt").write_text("evil")
    assert not store.usable(folder, parts(code={}), "stage sft")


def test_the_number_of_processes_counts_for_what_they_train_together(run, monkeypatch, capsys):
    def build(folder):
        (folder / "out.txt").write_text("x")

    run.stage("sft", uses={}, build=build, together=True)
    monkeypatch.setattr(distributed, "launched", lambda: 2)
    monkeypatch.setattr(distributed, "_alone", True)
    capsys.readouterr()
    run.stage("sft", uses={}, build=build, together=True)
    assert capsys.readouterr().out == "stage sft: processes none -> 2; building it again\n"
    run.stage("data", uses={}, build=build)
    assert "processes" not in files.read_json(run.folder / "stages/data/manifest.json")["versions"]


# --------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "record",
    [
        "[]", "null", "1", "{", "{}", '{"files": []}', '{"files": {"out.txt": 1}}', '{"files": {"out.txt": {}}}',
        '{"files": {"out.txt": {"sha256": 1, "bytes": "x"}}}', "[" * 100_000, "\x00",
    ],
)  # fmt: skip
def test_a_manifest_of_another_shape_is_damage(tmp_path, record, capsys, monkeypatch):
    monkeypatch.setenv(store.ACCEPT_STALE, "1")
    folder = store.make(tmp_path / "things" / "sft", parts(), write, "stage sft")
    (folder / store.MANIFEST).write_text(record)
    assert store.damage(folder) == "its manifest is missing or damaged"
    store.make(folder, parts(), write, "stage sft")
    assert capsys.readouterr().out == "stage sft: its manifest is missing or damaged; building it again\n"
    assert store.is_current(folder, parts().fingerprint)


@pytest.mark.parametrize("kind", store.Parts._fields)
def test_a_manifest_without_parts_says_so(tmp_path, kind, capsys):
    folder = store.make(tmp_path / "things" / "sft", parts(), write, "stage sft")
    record = files.read_json(folder / store.MANIFEST)
    files.write_json(folder / store.MANIFEST, record | {kind: ["x"], "fingerprint": "x"})
    store.make(folder, parts(), write, "stage sft")
    assert capsys.readouterr().out == f"stage sft: {store.NOT_RECORDED}; building it again\n"


def test_a_folder_in_the_place_of_a_file_is_damage(tmp_path, results):
    folder = store.make(tmp_path / "things" / "sft", parts(), write, "stage sft")
    (folder / store.MANIFEST).unlink()
    (folder / store.MANIFEST).mkdir()
    assert store.damage(folder)
    store.make(folder, parts(), write, "stage sft")
    assert store.damage(folder) is None
    (results / "smoke" / "run.json").mkdir(parents=True)
    with pytest.raises(StageError, match=r"writing run.json: is a directory"):
        helpers.open_run(profile="smoke")


@pytest.mark.parametrize("text", ["[]", "{", '{"settings": []}', '{"settings": {}, "sources": {"seed": "you"}}'])
def test_a_run_json_of_another_shape_is_written_anew(results, text):
    (results / "smoke").mkdir(parents=True)
    (results / "smoke" / "run.json").write_text(text)
    helpers.open_run(profile="smoke")
    assert json.loads((results / "smoke" / "run.json").read_text())["settings"]["profile"] == "smoke"


BIG = b"0" * files.SMALL


def flip(path):
    """Another byte in a large file, at the same size and time: what no look at the folder tells."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"1")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    files._hashes.clear()  # as in a new session


def big(calls, folder):
    calls.append(1)
    (folder / "model.safetensors").write_bytes(BIG)


def test_a_large_file_that_rotted_is_found_when_it_is_used(run, capsys):
    made, used = [], []
    sft = partial(run.stage, "sft", uses={}, build=partial(big, made))
    folder = sft()
    flip(folder / "model.safetensors")
    assert sft() == folder and len(made) == 1, "only looked at"
    capsys.readouterr()
    run.stage("scores", uses={}, needs=[folder], build=partial(big, used))
    assert capsys.readouterr().out == "stage sft: damaged: model.safetensors; building it again\n"
    assert (folder / "model.safetensors").read_bytes() == BIG and len(made) == 2 and len(used) == 1
    os.utime(folder / "model.safetensors")  # another time alone is no damage
    files._hashes.clear()
    assert sft() == folder and len(made) == 2


def test_a_rotten_input_that_nobody_asked_for_is_named(run):
    folder = run.stage("sft", uses={}, build=partial(big, []))
    flip(folder / "model.safetensors")
    run_module._builders.clear()
    with pytest.raises(StageError, match=r"scores needs results/smoke/stages/sft, damaged: model\.safetensors"):
        run.stage("scores", uses={}, needs=[folder], build=partial(big, []))


def test_a_rotten_file_is_not_taken_from_another_run(run):
    folder = run.stage("sft", uses={}, build=partial(big, []))
    flip(folder / "model.safetensors")
    made = []
    helpers.open_run(profile="smoke", beta=0.3).stage("sft", uses={}, build=partial(big, made))
    assert len(made) == 1


def test_the_packing_of_a_gz_file_does_not_count(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    packed = gzip.compress(b"rows" * 100, mtime=0)
    path.write_bytes(packed)
    before = files.content_hash(path)
    path.write_bytes(packed[:9] + bytes([packed[9] ^ 255]) + packed[10:])  # the system's byte: Python 3.13 has another
    assert files.content_hash(path) == before
    path.write_bytes(gzip.compress(b"rows" * 100, compresslevel=1, mtime=5))
    assert files.content_hash(path) == before
    path.write_bytes(gzip.compress(b"row" * 100, mtime=0))
    other = files.content_hash(path)
    path.write_bytes(packed[:-9])
    assert len({before, other, files.content_hash(path)}) == 3


# -------------------------------------------------------------------------------- interruptions, two at once


def test_an_interrupted_build_goes_on_with_the_same_parts_only(tmp_path):
    seen = []

    def build(folder):
        seen.append((folder / "step").exists())
        (folder / "step").write_text("1")
        if len(seen) < 3:
            raise KeyboardInterrupt

    for now in (parts(), parts(code={"models.py": "9"})):
        with pytest.raises(KeyboardInterrupt):
            store.make(tmp_path / "things" / "sft", now, build, "stage sft")
    store.make(tmp_path / "things" / "sft", parts(code={"models.py": "9"}), build, "stage sft")
    assert seen == [False, False, True]


AT_ONCE = """
import pathlib, sys, time
from helpers.core import store
def build(folder):
    with pathlib.Path(sys.argv[1], "built").open("a") as file: file.write("x")
    pathlib.Path(sys.argv[1], "begun").touch()
    while not pathlib.Path(sys.argv[1], "go").exists(): time.sleep(0.01)
    (folder / "out.txt").write_text("made")
store.make(pathlib.Path(sys.argv[1], "things", "sft"), store.Parts({}, {}, {}, {}), build, "stage sft")
"""


def test_two_processes_make_a_thing_once(tmp_path):
    start = partial(
        subprocess.Popen, [sys.executable, "-c", AT_ONCE, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    first = start()
    while not (tmp_path / "begun").exists():
        assert first.poll() is None
        time.sleep(0.01)
    second = start()
    assert "another process is building it" in second.stdout.readline()
    (tmp_path / "go").touch()
    assert (first.wait(60), second.wait(60)) == (0, 0) and (tmp_path / "built").read_text() == "x"
