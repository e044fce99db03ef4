"""What the tests share: a results folder of their own, and quiet libraries."""

import os
import shutil

import pytest
from hypothesis import settings

# A busy machine may take any time for one example: only what an example answers is tested, not how soon.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty results folder, used instead of results/ by this process and those it starts."""
    folder = tmp_path / "results"
    monkeypatch.setenv("COURSE_RESULTS", str(folder))
    return folder


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """edited(file, old, new) changes a copy of helpers/, which then is the code that things are made by."""
    from helpers.core import code

    sources = tmp_path / "edited" / "helpers"
    shutil.copytree(code.SOURCES, sources, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "SOURCES", sources)

    def edit(file, old, new):
        text = (sources / file).read_text(encoding="utf-8")
        assert old in text
        (sources / file).write_text(text.replace(old, new), encoding="utf-8")
        code._tree.cache_clear()  # as in a new process

    code._tree.cache_clear()
    yield edit
    code._tree.cache_clear()


@pytest.fixture(scope="session")
def opt_published(tmp_path_factory):
    """The files of a repository like opt-350m's: see tiny_repositories."""
    from tiny_repositories import opt_files

    return opt_files(tmp_path_factory.mktemp("opt"))


@pytest.fixture(scope="session")
def reward_model_published(tmp_path_factory):
    """The files of a repository like the reward model's: see tiny_repositories."""
    from tiny_repositories import reward_model_files

    return reward_model_files(tmp_path_factory.mktemp("reward_model"))


@pytest.fixture
def cache(tmp_path):
    """Where the hub's cache is in a test."""
    return tmp_path / "hub-cache"


@pytest.fixture
def server(monkeypatch, cache, results):
    """An imitation of the hub, which this process takes for the hub; cache and results folder are empty."""
    import hub_imitation

    with hub_imitation.running() as running:
        hub_imitation.connect(monkeypatch, running, cache)
        yield running
