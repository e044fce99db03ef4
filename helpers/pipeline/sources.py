"""Where a run's dialogues, policy and reward model come from: the embedded world, a folder or the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from helpers.core.profiles import DATA_CACHE, ROOT
from helpers.core.repositories import revision_of
from helpers.models import adapters

if TYPE_CHECKING:
    from helpers.pipeline.run import Run

EMBEDDED = {
    "dataset": DATA_CACHE / "mini_hh",
    "policy": DATA_CACHE / "policy",
    "reward_model": DATA_CACHE / "reward_model",
}


def source(run: Run, what: str) -> Path | str:
    """Where the dataset, policy or reward model of a run comes from: a folder or a hub id.

    what: "dataset", "policy" or "reward_model". Returns "" where the run trains its own.
    """
    given = getattr(run.settings, what)
    if given is not None:
        return locate(given) or given
    return "" if run.settings.profile == "local" else EMBEDDED[what]


def identity(origin: Path | str) -> tuple[dict, list[Path]]:
    """(uses, needs) of `Run.stage` for a source: a folder counts by its content, a hub id by its name and revision."""
    if isinstance(origin, Path):
        return {}, [origin, *_base(origin)]
    return {"hub": origin, "revision": revision_of(origin)}, []


def _base(origin: Path) -> list[Path]:
    """The folder of the model that an adapter was trained on; [] for anything else, and for a base on the hub."""
    if not adapters.is_adapter(origin):
        return []
    base = Path(adapters.base_of(origin))
    return [base] if base.is_dir() else []


def knows_truth(run: Run) -> bool:
    """Whether the dialogues are the embedded ones, for which the oracle knows what is good."""
    return run.settings.dataset is None


def locate(source: str | Path) -> Path | None:
    """The existing file or folder that `source` names, from here or from the project root; None for a hub id."""
    for path in (Path(source).expanduser(), ROOT / source):
        if path.exists():
            return path.resolve()
    return None
