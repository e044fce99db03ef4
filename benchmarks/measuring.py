"""What the benchmarks share: processes of their own, ways that take turns, and the record of how it was measured."""

import datetime
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from helpers.core import files

# Threads that spin while they wait take the cores from other work, and from each other when that work is there: times
# then grow tenfold at random. Read when a process starts; what you set yourself stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` returns in a fresh process: its memory, its libraries' state and its warm-up are its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result = pool.apply(work, arguments)
    print(getattr(work, "__name__", work), *arguments, result, flush=True)
    return result


def in_turns(ways: dict[str, Sequence[Any]], rounds: int) -> dict[str, list[Any]]:
    """Measure ways, each (function, *arguments), one after another and again: A B C A B C ... Each in its own process.

    What else the machine does changes from minute to minute, so only neighbours are compared: see `ratio`.
    """
    found: dict[str, list[Any]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(alone(*way))
    return found


def ratio(of: Sequence[float], to: Sequence[float]) -> dict[str, float]:
    """How many times more the first is than the second, pair by pair: the median, and the least and the most seen."""
    each = [a / b for a, b in zip(of, to, strict=True)]
    return {name: round(f(each), 3) for name, f in (("median", statistics.median), ("least", min), ("most", max))}


class _Enough(Exception):
    """All steps that were asked for have been timed."""


def tokens_a_second(train: Callable[[], Any], steps: int, warm_up: int) -> dict[str, float]:
    """Run a training with transformers' trainer for warm_up + steps steps and time the last ones, all that they do.

    A token is one that is not padding. warm_up_seconds: from the first step to the first that counts.
    """
    from transformers import Trainer

    began: list[float] = []
    tokens: list[int] = []
    step = Trainer.training_step

    def counted(self: Trainer, model: Any, inputs: dict[str, Any], *more: Any, **named: Any) -> Any:
        began.append(time.perf_counter())
        tokens.append(int(inputs["attention_mask"].sum()))
        if len(began) > warm_up + steps:
            raise _Enough
        return step(self, model, inputs, *more, **named)

    with mock.patch.object(Trainer, "training_step", counted):
        try:
            train()
            raise AssertionError(f"the training had {len(began)} steps, too few for {warm_up + steps} and one more")
        except _Enough:
            seconds = began[-1] - began[warm_up]
    return {
        "tokens_a_second": round(sum(tokens[warm_up:-1]) / seconds, 1),
        "seconds_a_step": round(seconds / steps, 4),
        "warm_up_seconds": round(began[warm_up] - began[0], 2),
    }


@contextmanager
def steps_only():
    """The course's own trainings without evaluations on held-out pairs and without checkpoints."""
    from helpers.training import callbacks

    nothing = {"EVALUATED": 0, "SAVED": 0}
    with (
        mock.patch.multiple(callbacks, **nothing),
        mock.patch.object(callbacks.TrainingWatch, "on_train_begin", lambda *_, **__: None),
    ):
        yield


def device() -> str:
    """The card where there is one, else the processor and its cores."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{_processor()}, {os.cpu_count()} cores"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def record(script: str, arguments: str = "") -> dict[str, Any]:
    """How something was measured: the command, the day, the machine and what else it did, the versions."""
    return {
        "command": f"python -m benchmarks.{Path(script).stem} {arguments}".strip(),
        "date": datetime.date.today().isoformat(),
        "device": device(),
        "load": round(os.getloadavg()[0], 1),  # processes that wanted a core, this one among them
        "wait_policy": os.environ["OMP_WAIT_POLICY"],
        "versions": files.versions(),
    }


def keep(script: str, found: dict[str, Any], arguments: str = "", to: Path | None = None) -> Path:
    """Write what a benchmark found, with its `record`, as JSON to a file; None: beside the script."""
    return _write(to or Path(script).with_suffix(".json"), record(script, arguments) | found)


def keep_part(script: str, name: str, found: dict[str, Any]) -> Path:
    """Write one of several comparisons with a record of its own; the others stay as they are."""
    parts = files.read_json(Path(script).with_suffix(".json"))
    return _write(Path(script).with_suffix(".json"), parts | {name: record(script, repr(name)) | found})


def _write(path: Path, found: dict[str, Any]) -> Path:
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
