"""The embedded world on disk: it is what its manifest says, and damage is named."""

import shutil

import pytest

from helpers import cache, folders
from helpers.errors import DataError


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of data_cache/ that a test may damage."""
    folder = tmp_path / "data_cache"
    shutil.copytree(cache.DATA_CACHE, folder)
    monkeypatch.setattr(cache, "DATA_CACHE", folder)
    return folder


def test_what_is_shipped_is_whole_and_its_dialogues_regenerate():
    cache.verify()


def test_data_cache_stays_small_enough_for_git():
    assert sum(path.stat().st_size for path in cache.DATA_CACHE.rglob("*") if path.is_file()) < 25 * 2**20


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda folder: (folder / "policy" / "config.json").unlink(), "policy/config.json is missing"),
        (lambda folder: (folder / "policy" / "config.json").write_text("{}"), "policy/config.json is not the file"),
        (lambda folder: (folder / "mini_hh" / "more.txt").write_text("x"), "mini_hh/more.txt is not in the manifest"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
    ],
)
def test_damage_is_named(copied, damage, complaint):
    damage(copied)
    with pytest.raises(DataError, match=complaint):
        cache.verify()


def test_dialogues_that_the_generator_does_not_make_are_found_even_with_a_fitting_manifest(copied):
    rows = copied / "mini_hh" / "helpful-base" / "test.jsonl.gz"
    cache._write_rows(
        rows, [{"chosen": "\n\nHuman: Hi\n\nAssistant: Ho", "rejected": "\n\nHuman: Hi\n\nAssistant: No"}]
    )
    manifest = folders.read_json(copied / "manifest.json")
    manifest["files"]["mini_hh/helpful-base/test.jsonl.gz"]["sha256"] = folders.sha256_of_file(rows)
    folders.write_json(copied / "manifest.json", manifest)
    with pytest.raises(DataError, match="not what seed and generator make"):
        cache.verify()
