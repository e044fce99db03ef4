"""The benchmarks: every one has its record and its row in the README, and ratios are those of neighbours."""

import json
from pathlib import Path

import pytest

from benchmarks import measuring
from helpers import planning

FOLDER = Path(measuring.__file__).parent
PLANNING = Path(planning.__file__).parent
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.stem != "measuring")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_is_in_the_readme_and_says_how_it_is_run(script):
    command = f"python -m benchmarks.{script.stem}"
    assert command in (FOLDER / "README.md").read_text("utf-8") and command in script.read_text("utf-8")


@pytest.mark.parametrize("path", sorted([*FOLDER.glob("*.json"), *PLANNING.glob("*.json")]), ids=lambda path: path.stem)
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
