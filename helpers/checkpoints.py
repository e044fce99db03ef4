"""Checkpoints of a training: which are whole, and which one to go on from.

A process that trains by itself writes trainer_state.json last. Of several, each writes its own random state, and the
main one may be done long before the others: a further file says that all of them were, and what they wrote.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from . import processes
from .errors import StageError
from .folders import read_json, write_json

WHOLE = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")  # besides the weights
WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
TOGETHER = "processes.json"  # {"processes": how many wrote it, "sharded": FSDP or not, "files": what they wrote}


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in a folder, or None. Ones that were being written or deleted are removed.

    Raises StageError for one that these processes cannot go on from: weights in parts (FSDP) are not those of DDP.
    """
    found = processes.from_main(_last(folder) if processes.is_main() else None)
    if found:
        before = read_json(Path(found) / TOGETHER)
        if before.get("sharded", False) != processes.sharded():
            kind = "in parts (FSDP)" if before.get("sharded") else "whole in each process (no FSDP)"
            raise StageError(
                f"{Path(found).name} of this training holds the weights {kind}: go on with the launcher's config file "
                f"that it was begun with, or remove {folder.parent.name}/{folder.name} to begin again"
            )
        was = before.get("processes", 1)
        if was != processes.count() and processes.is_main():
            print(f"{Path(found).name} was written by {was} processes; {processes.count()} go on from it")
    return found


def _last(folder: Path) -> str | None:
    whole = {}
    for checkpoint in folder.glob("checkpoint-*"):
        step = step_of(checkpoint)
        if step is not None and _is_whole(checkpoint):
            whole[step] = checkpoint
        else:
            shutil.rmtree(checkpoint)
    return str(whole[max(whole)]) if whole else None


def step_of(checkpoint: Path) -> int | None:
    """The step after which a checkpoint was written; None when that cannot be read."""
    return read_json(checkpoint / WHOLE[0]).get("global_step")


def _is_whole(checkpoint: Path) -> bool:
    together = read_json(checkpoint / TOGETHER).get("files")
    weights = any((checkpoint / name).exists() for name in WEIGHTS)
    return all((checkpoint / name).exists() for name in together or WHOLE) and (weights or bool(together))


def finish(checkpoint: Path) -> None:
    """Call a checkpoint that several processes wrote whole when all are done, and remove the ones before it."""
    if processes.count() == 1:
        return  # the trainer does all this itself
    processes.wait()
    if processes.is_main():
        files = sorted(path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file())
        record = {"processes": processes.count(), "sharded": processes.sharded(), "files": files}
        write_json(checkpoint / TOGETHER, record)
        for other in checkpoint.parent.glob("checkpoint-*"):
            if other != checkpoint:
                shutil.rmtree(other)
    processes.wait()
