"""The embedded world on disk: it is what its manifest says, and damage is named."""

import shutil

import pytest

from helpers.core import files, profiles, store
from helpers.core.errors import DataError
from helpers.pipeline import data_cache


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of data_cache/ that a test may damage."""
    folder = tmp_path / "data_cache"
    shutil.copytree(profiles.DATA_CACHE, folder)
    monkeypatch.setattr(data_cache, "DATA_CACHE", folder)
    return folder


def test_what_is_shipped_is_whole_and_its_dialogues_regenerate():
    data_cache.verify()


def test_data_cache_stays_small_enough_for_git():
    assert sum(path.stat().st_size for path in profiles.DATA_CACHE.rglob("*") if path.is_file()) < 25 * 2**20


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda folder: (folder / "policy" / "config.json").unlink(), "policy/config.json is missing"),
        (lambda folder: (folder / "policy" / "config.json").write_text("{}"), "policy/config.json is not the file"),
        (lambda folder: (folder / "mini_hh" / "more.txt").write_text("x"), "mini_hh/more.txt is not in the manifest"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json is missing or damaged"),
    ],
)
def test_damage_is_named(copied, damage, complaint):
    damage(copied)
    with pytest.raises(DataError, match=complaint):
        data_cache.verify()


def test_another_packing_of_the_same_rows_is_no_damage(copied):
    rows = copied / "mini_hh" / "helpful-base" / "test.jsonl.gz"
    packed = rows.read_bytes()
    rows.write_bytes(packed[:9] + b"\x07" + packed[10:])  # the byte that Python 3.13 writes otherwise
    data_cache.verify()
    rows.write_bytes(packed[:-100])
    with pytest.raises(DataError, match=r"helpful-base/test\.jsonl\.gz is not the file"):
        data_cache.verify()


def test_what_other_code_made_is_said_and_no_failure(copied, edited):
    said = data_cache.verify()
    assert len(said) == 1 and "is not recorded: mini_hh, policy, reward_model, experiments/cleaning" in said[0]
    for part in (data_cache.POLICY, data_cache.REWARD_MODEL):
        data_cache._enter_part(part, data_cache.parts_of(part))
    said = data_cache.verify()
    assert len(said) == 1 and "is not recorded: mini_hh, experiments/cleaning" in said[0]
    edited("training/optimizers.py", "import torch\n", "import torch\n\nNEW = 1\n")
    said = data_cache.verify()
    words = "is whole, but would be made differently now: training code changed since (optimizers)"
    assert (
        said[:2] == [f"data_cache/{part} {words}" for part in (data_cache.POLICY, data_cache.REWARD_MODEL)]
        and len(said) == 3
    )


def test_a_part_that_is_made_again_is_entered(copied):
    made = data_cache.made_from()
    files = store.files_of(copied)
    data_cache.build(data_cache.DIALOGUES)
    again = data_cache.made_from()
    assert store.files_of(copied) == files and again[data_cache.POLICY] == made[data_cache.POLICY]
    assert (
        again[data_cache.DIALOGUES]["code"]["data/synthetic/topics.toml"]
        and again[data_cache.DIALOGUES]["uses"]["world_seed"] == 0
    )
    assert not any("mini_hh" in line for line in data_cache.verify())


def test_dialogues_that_the_generator_does_not_make_are_found_even_with_a_fitting_manifest(copied):
    rows = copied / "mini_hh" / "helpful-base" / "test.jsonl.gz"
    data_cache._write_rows(
        rows, [{"chosen": "\n\nHuman: Hi\n\nAssistant: Ho", "rejected": "\n\nHuman: Hi\n\nAssistant: No"}]
    )
    manifest = files.read_json(copied / "manifest.json")
    manifest["files"]["mini_hh/helpful-base/test.jsonl.gz"]["sha256"] = files.sha256_of_content(rows)
    files.write_json(copied / "manifest.json", manifest)
    with pytest.raises(DataError, match="not what seed and generator make"):
        data_cache.verify()
