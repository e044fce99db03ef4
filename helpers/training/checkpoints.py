"""Checkpoints of a training: which ones are whole, and from which one a training goes on.

The trainer writes the files of a checkpoint one after another, trainer_state.json last; each process writes its own
random state. When a training is killed while it writes, only a part of the files is there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from helpers.core import distributed
from helpers.core.errors import StageError
from helpers.core.files import read_json

STATE = "trainer_state.json"
WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
OPTIMIZER, OPTIMIZER_SHARDED = "optimizer.pt", "optimizer.bin"  # the second is the name that FSDP gives


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in a folder, or None; checkpoints that are not whole are deleted.

    All processes call it, and all get the main process's answer. Raises StageError where one of FSDP and DDP wrote the
    checkpoint and the other is in use now: neither can read the optimiser state of the other.
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
    """The newest whole checkpoint; the others that are not whole are deleted."""
    whole = {}
    for checkpoint in folder.glob("checkpoint-*"):
        step = read_json(checkpoint / STATE).get("global_step")
        if step is not None and _is_whole(checkpoint):
            whole[step] = checkpoint
        else:
            shutil.rmtree(checkpoint)
    return str(whole[max(whole)]) if whole else None


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has all files that a training with today's number of processes writes."""
    # State of the trainer, of the learning rate's schedule, and of every process's random numbers.
    count = distributed.count()
    random_states = ["rng_state.pth"] if count == 1 else [f"rng_state_{index}.pth" for index in range(count)]
    if not all((checkpoint / name).exists() for name in (STATE, "scheduler.pt", *random_states)):
        return False
    # Weights of a model or of an adapter; state of an optimiser, in one of its two forms.
    has_weights = any((checkpoint / name).exists() for name in WEIGHTS)
    has_optimizer = any((checkpoint / name).exists() for name in (OPTIMIZER, OPTIMIZER_SHARDED))
    return has_weights and has_optimizer
