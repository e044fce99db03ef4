"""Checkpoints of a training: which are whole, and which one to go on from.

The trainer writes a checkpoint's files one after another, trainer_state.json last; each process writes its own random
state. A training that is killed meanwhile leaves a part of them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from helpers.core import distributed
from helpers.core.errors import StageError
from helpers.core.files import read_json

STATE = "trainer_state.json"
WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
OPTIMIZER, OPTIMIZER_SHARDED = "optimizer.pt", "optimizer.bin"  # the name says whether FSDP wrote it


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in a folder, or None. Ones that were being written or deleted are removed.

    Called by all processes alike; all get the main one's answer. Raises StageError for a checkpoint that these
    processes cannot go on from: an optimizer's state that FSDP wrote is not that of DDP.
    """
    found = distributed.from_main(_last(folder) if distributed.is_main() else None)
    if found and (Path(found) / OPTIMIZER_SHARDED).exists() != distributed.sharded():
        kind = "whole in each process (no FSDP)" if distributed.sharded() else "in parts (FSDP)"
        raise StageError(
            f"{Path(found).name} of this training holds the weights {kind}: go on with the launcher's config file "
            f"that it was begun with, or remove {folder.parent.name}/{folder.name} to begin again"
        )
    return found


def _last(folder: Path) -> str | None:
    whole = {}
    for checkpoint in folder.glob("checkpoint-*"):
        step = read_json(checkpoint / STATE).get("global_step")
        if step is not None and _is_whole(checkpoint):
            whole[step] = checkpoint
        else:
            shutil.rmtree(checkpoint)
    return str(whole[max(whole)]) if whole else None


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has all that as many processes as there are now write."""
    count = distributed.count()
    random_states = ["rng_state.pth"] if count == 1 else [f"rng_state_{index}.pth" for index in range(count)]
    all_of = [STATE, "scheduler.pt", *random_states]
    return all((checkpoint / name).exists() for name in all_of) and all(
        any((checkpoint / name).exists() for name in one_of) for one_of in (WEIGHTS, (OPTIMIZER, OPTIMIZER_SHARDED))
    )
