"""Runs of an experiment as jobs of a cluster, through submitit: Slurm decides when and where each one runs.

A job's log is in results/.cluster/EXPERIMENT/. Jobs keep what they train in results/, on a disk that the cluster's
machines share: one that is stopped for lack of time is queued again by submitit and goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from helpers.core.errors import CourseError, SettingsError
from helpers.core.profiles import results_root
from helpers.experiments.catalogue import Job
from helpers.experiments.run_one import Measured, measure

try:
    from submitit import AutoExecutor
    from submitit.helpers import Checkpointable, as_completed
except ImportError:
    raise SettingsError(
        "sweeps on a cluster need submitit, which is not installed: pip install 'submitit>=1.5', or leave out --cluster"
    ) from None

Cluster = Literal["slurm", "local"]
LEAST_MINUTES, MARGIN = 60, 4  # a job may take so many times as long as it took here, and an hour at least


def wishes(given: Sequence[str]) -> dict[str, Any]:
    """What a job needs, as submitit takes it: ["timeout_min=90", "slurm_partition=gpu"] -> name -> value.

    Whole numbers become numbers. Raises SettingsError for a text without a name or a value.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise SettingsError(f"{text!r} is nothing to ask a cluster for: write --ask slurm_partition=gpu")
        found[name] = int(value) if value.lstrip("-").isdigit() else value
    return found


def run(
    name: str, todo: list[Job], minutes: float, cluster: Cluster, workers: int, asked: Mapping[str, Any]
) -> Iterator[tuple[int, Measured]]:
    """Do the runs of an experiment as one job each; yield (place in `todo`, what was measured) as they finish.

    minutes: what a run took here on one core. cluster: "slurm", or "local" for processes of this machine. workers: how
    many at once; 1 leaves that to Slurm. asked: see `wishes`. Every job is waited for, whatever becomes of the others;
    then CourseError says which failed, and why the first did.
    """
    executor = _executor(name, minutes, cluster, workers, asked)
    work, failed = _Measure(asked.get("cpus_per_task", 1)), {}
    # Slurm takes all jobs at once and says when each starts; on this machine only as many are submitted as may run.
    size = workers if cluster == "local" else len(todo)
    for first in range(0, len(todo), size):
        jobs = executor.map_array(work, todo[first : first + size])
        places = {id(job): first + i for i, job in enumerate(jobs)}
        try:
            for job in as_completed(jobs, poll_frequency=1 if cluster == "local" else 10):
                place = places[id(job)]
                try:
                    result = job.result()
                except RuntimeError as error:  # submitit's errors of a job that failed or never ended
                    failed[place] = _reason(error)
                else:
                    yield place, result
        except BaseException:  # stopped by the user, or by the caller, who wants no more results
            for job in jobs:
                job.cancel(check=False)
            raise
    # Say what failed only after all others are done.
    if failed:
        place = min(failed)
        raise CourseError(
            f"{len(failed)} of {len(todo)} runs failed, first {todo[place].name}: {failed[place]}; logs are in "
            f"results/.cluster/{name}; what is finished is kept, and the same command does the rest"
        )


class _Measure(Checkpointable):
    """`measure` as a job that can be queued again when its time is over: its trainings go on where they were."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __call__(self, job: Job) -> Measured:
        return measure(job, self.threads)


def _executor(name: str, minutes: float, cluster: Cluster, workers: int, asked: Mapping[str, Any]) -> AutoExecutor:
    """What submits jobs. Raises SettingsError, one line, for a cluster that is not there or a wish it does not know."""
    # What a job gets where nothing else was asked for.
    usual = {"name": name, "timeout_min": max(LEAST_MINUTES, round(MARGIN * minutes)), "cpus_per_task": 1}
    if workers > 1:
        usual["slurm_array_parallelism"] = workers
    try:
        executor = AutoExecutor(results_root() / ".cluster" / name, cluster=cluster)
        executor.update_parameters(**(usual | asked))
    except (RuntimeError, ValueError, NameError, AssertionError) as error:
        raise SettingsError(f"{cluster}: {str(error).splitlines()[0]}") from None
    return executor


def _reason(error: Exception) -> str:
    """The line of a job's error that says what went wrong: the last one of its traceback."""
    # What submitit puts around a traceback is left out.
    lines = [line.strip() for line in str(error).splitlines()]
    trace = [line for line in lines if line and not line.startswith(("---", "You can check", "- "))]
    if not trace:
        return type(error).__name__
    return trace[-1].removeprefix(f"{CourseError.__module__}.")
