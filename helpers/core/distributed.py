"""Several processes that train one model together: their numbers, values passed between them, and their errors.

`accelerate launch` (or torchrun) starts the processes and gives each its number in environment variables. Accelerate
does the distributed training itself; here is what the other steps of a run need. Without a launcher there is one
process, number 0: it is the main process, and nothing here waits.

`join`, `leave`, `from_main` and `gathered` wait for the other processes. Every process must call them, in the same
order; if one of them leaves a call out, the others wait for ever.
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

# How long processes wait for the main one, which may audit data meanwhile, or wait until another run frees a lock.
PATIENCE = timedelta(days=2)
SHARDED = "ACCELERATE_USE_FSDP"  # accelerate's own variable, set by a config file with distributed_type: FSDP
# Seconds that a process whose error is not shown stays alive. The launcher stops it sooner, once the first has ended.
DYING = 30

_alone = False  # True while the main process builds a stage by itself


def count() -> int:
    """The number of processes that work together now: 1 while the main process builds a stage by itself.

    See `led_by_main` for that. The number is read from the environment, so that torch need not be imported.
    """
    return 1 if _alone else launched()


def launched() -> int:
    """The number of processes that `accelerate launch` or torchrun has started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1


def index() -> int:
    """The number of this process, from 0; the main process is 0."""
    return int(os.environ.get("RANK", 0)) if count() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes files and prints."""
    return index() == 0


def sharded() -> bool:
    """Whether each process holds only a part of the model's weights (FSDP); with DDP each holds all of them."""
    return count() > 1 and os.environ.get(SHARDED, "").lower() == "true"


def refuse_alone(what: str) -> None:
    """Raise CourseError while the main process builds a stage by itself.

    what: names the step that needs all processes, such as "a training". In it accelerate would wait for the other
    processes, which do not take part.
    """
    if _alone:
        raise CourseError(f"{what} inside another stage: build it first, with one process")


def join(*, cpu: bool) -> None:
    """Connect the processes. Every process calls this once, before anything else that waits.

    cpu: whether they train without a GPU. Raises SettingsError for FSDP without GPUs: accelerate would train without
    FSDP and not mention it.
    """
    if cpu and sharded():
        raise SettingsError("FSDP shares the weights of a model among GPUs, and none is used here: take ddp.yaml")
    if count() > 1:
        from accelerate import PartialState

        PartialState(cpu=cpu, timeout=PATIENCE)


def leave() -> None:
    """Disconnect the processes at the end; each waits here until all have arrived."""
    if count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()


def from_main(value: Any) -> Any:
    """Send the main process's value to every process.

    value: picklable; what the other processes give is ignored. Returns the main process's value in every process.
    """
    if count() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value], from_process=0)[0]


def gathered(value: Any) -> list[Any]:
    """Send every process's value to every process. Values must be picklable; returned in the order of the processes."""
    if count() == 1:
        return [value]
    from accelerate.utils import gather_object

    return gather_object([value])


def led_by_main(stage: Callable[[Callable[[Path], None]], Any], build: Callable[[Path], None], together: bool) -> None:
    """Make a stage of a run: the main process decides whether it has to be built, and in which folder.

    stage: called by the main process only. It checks whether the stage is up to date and, if not, calls the function
    that it is given with the folder to fill. build: fills that folder.
    together: True if all processes call `build` at the same time, as a training needs it; False if the main process
    builds by itself while the others wait.
    """
    # The other processes wait for a folder to fill; None says that the main process has finished.
    if not is_main():
        while (folder := from_main(None)) is not None:
            build(folder)
        return

    def build_together(folder: Path) -> None:
        from_main(folder)  # what the others wait for
        build(folder)

    # The main process makes the stage, with the others or by itself.
    if together:
        stage(build_together)
    else:
        with _one_process():
            stage(build)
    from_main(None)


@contextmanager
def _one_process() -> Iterator[None]:
    """While inside, `count` is 1 in the main process, so that nothing that it builds waits for the others."""
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


@contextmanager
def only_first_error() -> Iterator[None]:
    """While inside, only the process that fails first shows its error.

    When one process fails, the others lose their connection to it and fail too. Their errors would hide the reason, so
    they end without a message. The process that failed first ends at once after its error was shown, so that the
    launcher stops those that still wait for it.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if count() == 1:
            raise
        # A later error: let the first process show its own, and end.
        if not _is_first_to_fail():
            time.sleep(DYING)
            _end_process()
        # The first error: show it, then end. An ordinary exit would wait for the other processes.
        atexit.register(_end_process)
        if _lost_the_others(error):
            raise CourseError(
                "another process ended without a word, killed perhaps for memory: see what the launcher says about it; "
                "finished work is kept"
            ) from None
        raise


def _is_first_to_fail() -> bool:
    """Whether no other process has failed before; called once by each process that fails."""
    from torch import distributed

    if not distributed.is_initialized():
        return is_main()  # before they are connected, all fail alike: over a wrong parameter, which all are given
    # The processes share one counter.
    try:
        return distributed.distributed_c10d._get_default_store().add("failed", 1) == 1
    except RuntimeError:  # the process that holds the counter has ended
        return True


def _lost_the_others(error: BaseException) -> bool:
    """Whether an error says that the connection to another process is lost."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _end_process() -> None:
    """End this process now, without the exit functions of libraries, which would wait for the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
