"""The benchmarks: every one has its record and its row in the README, ratios are those of neighbours, and what they
replace in the course is what the course uses."""

import json
from pathlib import Path

import pytest
import tiny

from benchmarks import code_shape, loss_curves, measuring, training_speed
from helpers import planning, training
from helpers.core.errors import CourseError
from helpers.training import callbacks, sft

FOLDER = Path(measuring.__file__).parent
KEPT = [FOLDER, Path(planning.__file__).parent, Path(training.__file__).parent]  # where records are
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.stem != "measuring")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_is_in_the_readme_and_says_how_it_is_run(script):
    command = f"python -m benchmarks.{script.stem}"
    assert command in (FOLDER / "README.md").read_text("utf-8") and command in script.read_text("utf-8")


@pytest.mark.parametrize(
    "path", sorted(path for place in KEPT for path in place.glob("*.json")), ids=lambda path: path.stem
)
def test_every_record_says_how_it_was_made(path):
    found = json.loads(path.read_text("utf-8"))
    if path.stem == "rates":  # a rehearsal keeps these
        records = found["measured"]
    else:
        records = [found] if "command" in found else list(found.values())
        assert all(record["command"].startswith(f"python -m benchmarks.{path.stem}") for record in records)
    assert records and all({"date", "device", "versions"} <= record.keys() for record in records)


def test_a_ratio_is_that_of_neighbours():
    slow_spell = [1.0, 1.0, 0.1]
    ours, theirs = ([pace * spell for spell in slow_spell] for pace in (3.0, 2.0))
    assert measuring.ratio(ours, theirs) == {"median": 1.5, "least": 1.5, "most": 1.5}


def test_ways_take_turns(monkeypatch):
    order = []
    monkeypatch.setattr(measuring, "alone", lambda work, *given: order.append(given) or len(order))
    assert measuring.in_turns({"a": (print, 1), "b": (print, 2)}, rounds=2) == {"a": [1, 3], "b": [2, 4]}
    assert order == [(1,), (2,), (1,), (2,)]


def test_the_shape_of_code_counts_lines_of_each_kind():
    text = '"""Words."""\n\n\ndef double(values):  # here\n    """More\n    words."""\n    # Then\n'
    text += "    return [2 * value for value in values]\n"
    shape = code_shape.shape_of(text)
    assert (shape.lines, shape.functions, shape.comments, shape.code, shape.comprehensions) == (8, [5], 2, 2, 1)


def test_the_shape_of_code_is_told_where_there_are_no_functions_and_no_files(tmp_path, capsys):
    (tmp_path / "constants").mkdir()
    (tmp_path / "constants" / "a.py").write_text("A = 1\nB = 2\n")
    (tmp_path / "nothing").mkdir()
    code_shape.main([str(tmp_path / "constants"), str(tmp_path / "nothing")])
    rows = capsys.readouterr().out.splitlines()
    assert {line.count("|") for line in rows} == {len(code_shape.COLUMNS) + 1}
    assert " 1 | 2 | 2 / 2 | - |" in rows[2] and " 0 | 0 | - |" in rows[3]


class Stop(Exception):
    """Enough was seen."""


def test_only_steps_are_timed(tmp_path):
    """Neither evaluations nor checkpoints happen between the steps."""
    seen = []

    def train():
        rows, settings = tiny.made_up(8), tiny.settings(sft_batch_size=1, sft_epochs=1.0)
        sft.train_sft(tiny.policy_folder(), rows, rows, settings, tmp_path)

    def stopped(*_, **__):
        raise CourseError("an evaluation")

    with pytest.MonkeyPatch.context() as patch, measuring.steps_only():
        patch.setattr(callbacks.TrainingWatch, "on_evaluate", stopped)
        patch.setattr(callbacks.TrainingWatch, "on_save", lambda *_, **__: seen.append("saved"), raising=False)
        found = measuring.tokens_a_second(train, 5, 1)
    assert found["tokens_a_second"] > 0 and not seen


@pytest.mark.parametrize("on", [True, False])
def test_compiled_says_so_to_the_trainer(on, monkeypatch):
    def stopped(train, *_):
        monkeypatch.setattr(sft, "imported", lambda name: lambda *_, **given: seen.append(given) or stop())
        with pytest.raises(Stop):
            train()

    def stop():
        raise Stop

    seen = []
    monkeypatch.setattr(training_speed, "pairs", lambda: (tiny.made_up(4), tiny.made_up(4)))
    monkeypatch.setattr(measuring, "tokens_a_second", stopped)
    training_speed.compiled(on)
    assert seen[0]["torch_compile"] is on


@pytest.mark.parametrize("groups", [True, False])
def test_loss_curves_replace_what_the_trainings_use(groups, monkeypatch):
    from helpers.pipeline import stages
    from helpers.training import dpo, loop, rows

    def look(run, name):
        order = loop.LengthGroups([3, 1, 2, 9], 2, 0)
        seen.append((order.lengths, sft.labelled_only is rows.labelled_only, dpo.labelled_only is rows.labelled_only))
        raise Stop

    seen = []
    monkeypatch.setattr(stages, "training_log", look)
    with pytest.raises(Stop):
        loss_curves.train(groups, "float32", 0)
    assert seen == [([3, 1, 2, 9] if groups else [0] * 4, groups, groups)]
