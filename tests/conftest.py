"""What the tests share: a results folder of their own, and quiet libraries."""

import os

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
