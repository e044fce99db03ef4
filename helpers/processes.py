"""Several processes that train one model together: how many there are, which one writes, how they wait for each other.

`accelerate launch` (or torchrun) starts them and says in the environment who is who. Where there is one process, its
number is 0, it is the main one, and nothing here waits. What sends or waits is called by all processes alike, in the
same order: a process that leaves one out leaves the others waiting.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from .errors import CourseError, SettingsError

PATIENCE = timedelta(days=2)  # others wait for the main process: it may audit data, or wait for another run's lock
SHARDED = "ACCELERATE_USE_FSDP"  # accelerate's own name, set by a config file with distributed_type: FSDP

_alone = False


def count() -> int:
    """The number of processes that work together here; 1 in a stage that the main process builds by itself."""
    return 1 if _alone else launched()


def launched() -> int:
    """The number of processes that were started, as `accelerate launch` says it in the environment; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1


def index() -> int:
    """This process's number; the main process is 0."""
    return int(os.environ.get("RANK", 0)) if count() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    return index() == 0


def sharded() -> bool:
    """Whether each process holds a part of the weights only (FSDP), not all of them (DDP)."""
    return count() > 1 and os.environ.get(SHARDED, "").lower() == "true"


def refuse_alone(what: str) -> None:
    """Raise CourseError in a stage that the main process builds by itself: libraries would wait for the others there.

    what: "a training"
    """
    if _alone:
        raise CourseError(f"{what} inside another stage: build it first, with one process")


def join(*, cpu: bool) -> None:
    """Meet the other processes; once, before anything is decided together. cpu: they have no GPU, or shall use none.

    Raises SettingsError for FSDP without GPUs, where accelerate would quietly do without it.
    """
    if cpu and sharded():
        raise SettingsError("FSDP shares the weights of a model among GPUs, and none is used here: take ddp.yaml")
    if count() > 1:
        from accelerate import PartialState

        PartialState(cpu=cpu, timeout=PATIENCE)


def leave() -> None:
    """Part from the other processes at the end, when all are there."""
    if count() > 1:
        from torch import distributed

        distributed.barrier()
        distributed.destroy_process_group()


def wait() -> None:
    """Go on when every process is here."""
    from_main(None)


def from_main(value: Any) -> Any:
    """The main process's value, in all of them."""
    if count() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value], from_process=0)[0]


def gathered(value: Any) -> list[Any]:
    """Every process's value, in the order of their numbers."""
    if count() == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * count()
    distributed.all_gather_object(values, value)
    return values


def led_by_main(stage: Callable[[Callable[[Path], None]], Any], build: Callable[[Path], None], together: bool) -> None:
    """Do `stage(build)` in the main process. Only it knows whether anything has to be built, and where.

    together: all processes call `build` when the main one does (a training); else they wait until it is done.
    """
    if not is_main():
        while (folder := from_main(None)) is not None:
            build(folder)
        return

    def announced(folder: Path) -> None:
        from_main(folder)
        build(folder)

    if together:
        stage(announced)
    else:
        with _one_process():
            stage(build)
    from_main(None)


@contextmanager
def _one_process() -> Iterator[None]:
    """While inside, the main process is on its own: stages inside a stage are not announced to the others."""
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


@contextmanager
def one_voice() -> Iterator[None]:
    """Inside, only the process that fails first says why; what the others meet is its end, and they go in silence.

    A failed process ends at once: the launcher then stops the others, which wait for messages that will never come.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if count() == 1:
            raise
        if not _first_to_fail():
            time.sleep(30)  # the launcher ends this process before that, and names the one that failed
            _end()
        atexit.register(_end)  # not at an ordinary exit, where the devices would wait for the others too
        if _lost_the_others(error):
            raise CourseError(
                "another process ended without a word, killed perhaps for memory: see what the launcher says about it; "
                "finished work is kept"
            ) from None
        raise


def _first_to_fail() -> bool:
    from torch import distributed

    if not distributed.is_initialized():  # what fails before they meet, such as a wrong parameter, fails in all alike
        return is_main()
    try:
        return distributed.distributed_c10d._get_default_store().add("failed", 1) == 1
    except RuntimeError:  # whoever kept the store is gone
        return True


def _lost_the_others(error: BaseException) -> bool:
    from torch import distributed

    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _end() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
