"""One run of an experiment, done and measured."""

import contextlib
import io
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from helpers.evaluation import thresholds
from helpers.experiments.catalogue import PUZZLE_GRID, Job
from helpers.experiments.tables import COLUMNS

if TYPE_CHECKING:
    from helpers.pipeline.run import Run

DPO_TRAINED, HELD_OUT = ("dpo", "sft_dpo"), ("loss", "logps_chosen", "logps_rejected")


class Measured(NamedTuple):
    """One run: its rows of the experiment's table, the calibrated cut-offs (they depend on judge and held-out pairs
    only; {} where nothing was asked), and the first and last look at held-out pairs of each DPO training."""

    table: pd.DataFrame
    cuts: dict[str, float]
    held_out: list[dict]


def measure(job: Job, threads: int | None = None) -> Measured:
    """Train what is missing and measure it: a row a response, or DPO's log where no model is asked."""
    import torch

    from helpers.pipeline.run import open_run

    if threads:
        torch.set_num_threads(threads)
    with contextlib.redirect_stdout(io.StringIO()):
        run = open_run(**job.settings)
    return _answers(run, job) if job.models else _log(run, job)


def first_steps(job: Job) -> pd.DataFrame:
    """The log of a DPO job's first steps, trained here and now: as long as nothing has changed, the table's first rows.

    The first loss comes before any update, with the pairs and the noise of the whole run.
    """
    short = {"dpo_epochs": 0.02, "run": f"first-steps-{job.name}"}
    return measure(job._replace(settings=job.settings | short)).table


def _answers(run: "Run", job: Job) -> Measured:
    from helpers.data.synthetic import assess
    from helpers.pipeline import stages

    rules = {rule: stages.thresholds(run, rule) for rule in ("calibrated", "published")}
    decodings = {"greedy": stages.scores} | ({"sampled": stages.sampled_scores} if job.sampled else {})
    parts = []
    for model in job.models:
        for decoding, ask in decodings.items():
            rows = ask(run, model)
            truth = [assess(row.prompt, row.response) for row in rows.itertuples()]
            passed = {rule: thresholds.passes(rows, cuts) for rule, cuts in rules.items()}
            known = {what: [getattr(verdict, what) for verdict in truth] for what in ("kind", "good")}
            own = {"arm": job.arm, "seed": run.settings.seed, "model": model, "decoding": decoding}
            parts.append(rows.assign(**own, **passed, **known, truth=[t.score for t in truth], prompt=range(len(rows))))
    table = pd.concat(parts, ignore_index=True)[COLUMNS]
    table = table.astype({"calibrated": int, "published": int, "good": int, "ended": int}).round({"score": 4})
    cuts = {side: round(getattr(rules["calibrated"], side), 4) for side in ("harmless", "helpful")}
    trained = [model for model in DPO_TRAINED if model in job.models]
    return Measured(table, cuts, [_held_out(stages.training_log(run, model), model, job) for model in trained])


def _held_out(log: pd.DataFrame, model: str, job: Job) -> dict:
    """The first and last look at held-out pairs: loss, and mean log-probability of chosen and rejected completions."""
    looks = log[log["split"] == "heldout"]
    values = {name: [round(float(looks[name].iloc[place]), 4) for place in (0, -1)] for name in HELD_OUT}
    return {"arm": job.arm, "seed": job.settings["seed"], "model": model, **values}


def _log(run: "Run", job: Job) -> Measured:
    """The whole log of DPO from Base: a row an event, with the settings that the experiment varies."""
    from helpers.pipeline import stages

    log = stages.training_log(run, "dpo")
    columns = ["step", "split", "loss", "rewards_margins", "rewards_accuracies", "logps_chosen", "logps_rejected"]
    own = {name: getattr(run.settings, name) for name in PUZZLE_GRID} | {"seed": run.settings.seed}
    return Measured(log[columns].round(5).assign(**own), {}, [])
