"""Several processes that train one model together: who is the main one, what they tell each other, how errors show.

`accelerate launch` (or torchrun) starts them and says in the environment who is who. Accelerate does the work; here is
what a run needs around it. Without a launcher there is one process: its number is 0, it is the main one, and nothing
here waits. What sends or waits is called by all processes alike, in the same order: a process that leaves one call out
leaves the others waiting.
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

from helpers.core.errors import CourseError, SettingsError

PATIENCE = timedelta(days=2)  # others wait for the main process: it may audit data, or wait for another run's lock
SHARDED = "ACCELERATE_USE_FSDP"  # accelerate's own name, set by a config file with distributed_type: FSDP
DYING = 30  # seconds; the launcher ends the other processes sooner than that after one has failed

_alone = False


def count() -> int:
    """The number of processes that work together now; 1 while the main process builds a stage by itself.

    Read from the environment, so that torch need not be imported. See `led_by_main`.
    """
    return 1 if _alone else launched()


def launched() -> int:
    """The number of processes that were started, as `accelerate launch` says it in the environment; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1


def index() -> int:
    """This process's number; the main process is 0."""
    return int(os.environ.get("RANK", 0)) if count() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes files and prints."""
    return index() == 0


def sharded() -> bool:
    """Whether each process holds a part of the weights only (FSDP), not all of them (DDP)."""
    return count() > 1 and os.environ.get(SHARDED, "").lower() == "true"


def refuse_alone(what: str) -> None:
    """Raise CourseError while the main process builds something by itself: libraries would wait for the others there.

    what: "a training"
    """
    if _alone:
        raise CourseError(f"{what} inside another stage: build it first, with one process")


def join(*, cpu: bool) -> None:
    """Connect the processes, once, before they decide anything together. cpu: they have no GPU, or shall use none.

    Raises SettingsError for FSDP without GPUs, where accelerate would train without it and say nothing.
    """
    if cpu and sharded():
        raise SettingsError("FSDP shares the weights of a model among GPUs, and none is used here: take ddp.yaml")
    if count() > 1:
        from accelerate import PartialState

        PartialState(cpu=cpu, timeout=PATIENCE)


def leave() -> None:
    """Disconnect the processes at the end, when all have come so far."""
    if count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()


def from_main(value: Any) -> Any:
    """The main process's value, in every process; it must be picklable. A process waits here for the main one."""
    if count() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value], from_process=0)[0]


def gathered(value: Any) -> list[Any]:
    """Every process's value, in the order of their numbers, in every process. Values must be picklable."""
    if count() == 1:
        return [value]
    from accelerate.utils import gather_object

    return gather_object([value])


def led_by_main(stage: Callable[[Callable[[Path], None]], Any], build: Callable[[Path], None], together: bool) -> None:
    """Do `stage(build)` in the main process, which alone decides whether anything has to be built and in what folder.

    stage: checks whether something is there already and, if not, calls the function it is given with a folder to fill.
    build: fills that folder. together: all processes call `build` when the main one does, as a training needs it; else
    the main process builds by itself and the others wait until it is done.
    """
    if not is_main():
        # Wait for folders to fill; None says that the main process is done.
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
    """Inside, `count` is 1 in the main process, so that what it builds on the way does not wait for the others."""
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


@contextmanager
def one_voice() -> Iterator[None]:
    """Inside, only the process that fails first prints its error.

    The others fail after it because they lose their connection; that would only hide the reason, so they end without a
    word. A failed process ends at once, so that the launcher stops those that still wait for it.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if count() == 1:
            raise
        if not _first_to_fail():
            time.sleep(DYING)
            _end()
        atexit.register(_end)  # an ordinary exit would wait for the other processes
        if _lost_the_others(error):
            raise CourseError(
                "another process ended without a word, killed perhaps for memory: see what the launcher says about it; "
                "finished work is kept"
            ) from None
        raise


def _first_to_fail() -> bool:
    """Whether no other process has failed before; the first one to ask is told so."""
    from torch import distributed

    if not distributed.is_initialized():
        return is_main()  # before they connect, what fails is a wrong parameter, and all processes have the same
    try:
        return distributed.distributed_c10d._get_default_store().add("failed", 1) == 1
    except RuntimeError:  # the process that kept the count is gone
        return True


def _lost_the_others(error: BaseException) -> bool:
    from torch import distributed

    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _end() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
