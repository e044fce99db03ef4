"""How far a long run is: one line for each step, live on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Display:
    """Shows steps as waiting, running, done or stopped; a context manager.

    steps: those that are known at the start, in their order; others are added when they begin. console: where to print;
    None for standard output.
    """

    def __init__(self, steps: Sequence[str], console: Console | None = None) -> None:
        # Lines that change in place, on a terminal only.
        self.console = console or Console(highlight=False)
        self.live = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}"),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        # One task of the display for each step.
        self.width = max(map(len, steps), default=0)
        self.tasks: dict[str, TaskID] = {}
        for step in steps:
            self._add(step)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def _add(self, step: str) -> TaskID:
        """The task of a step, entered now if it is new."""
        if step not in self.tasks:
            self.tasks[step] = self.live.add_task(step, start=False, total=1, state="waiting")
        return self.tasks[step]

    def _print(self, step: str, state: str) -> None:
        """One plain line, where there is no terminal."""
        if not self.console.is_terminal:
            self.console.print(f"{step:{self.width}}  {state}", markup=False, soft_wrap=True)

    def done(self, step: str, state: str) -> None:
        """Mark a step as finished without having run. state: why, in a few words."""
        self.live.update(self._add(step), completed=1, state=state)
        self._print(step, state)

    @contextmanager
    def working(self, step: str) -> Iterator[None]:
        """While inside, the step is running; afterwards it is done, or stopped if it raised an exception."""
        task, start = self._add(step), time.monotonic()
        self.live.start_task(task)
        self.live.update(task, state="running")
        self._print(step, "running")
        try:
            yield
        except BaseException:
            self.live.update(task, state="stopped")
            self.live.stop_task(task)
            self._print(step, f"stopped after {_duration(time.monotonic() - start)}")
            raise
        self.live.update(task, completed=1, state="done")
        self._print(step, f"done in {_duration(time.monotonic() - start)}")


def _duration(seconds: float) -> str:
    """To the second, as steps are timed here; `text.duration` rounds more."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
