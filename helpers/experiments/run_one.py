"""One run of an experiment, done and measured."""

import contextlib
import io
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from helpers.evaluation import thresholds
from helpers.experiments.catalogue import PUZZLE_GRID, Job
from helpers.experiments.tables import COLUMNS

if TYPE_CHECKING:
    from helpers.pipeline.run import Run

DPO_TRAINED, HELD_OUT = ("dpo", "sft_dpo"), ("loss", "logps_chosen", "logps_rejected")


class Measured(NamedTuple):
    """What one run gave.

    table: its rows of the experiment's table. cuts: side -> calibrated cut-off, which depends on reward model and
    held-out pairs only; {} where no responses were measured. held_out: the first and the last evaluation on held-out
    pairs of each DPO training.
    """

    table: pd.DataFrame
    cuts: dict[str, float]
    held_out: list[dict]


def measure(job: Job, threads: int | None = None) -> Measured:
    """Train what is missing and measure it: a row a response, or a row a log event of DPO where the job names no model.

    threads: of torch in this process; None: as they are.
    """
    import torch

    from helpers.pipeline.run import open_run

    if threads:
        torch.set_num_threads(threads)
    with contextlib.redirect_stdout(io.StringIO()):
        run = open_run(**job.settings)
    return _responses(run, job) if job.models else _log(run, job)


def first_steps(job: Job) -> pd.DataFrame:
    """The log of a DPO job's first steps, trained here and now: as long as nothing has changed, the table's first rows.

    The first loss comes before any update, with the pairs and the noise of the whole run.
    """
    short = {"dpo_epochs": 0.02, "run": f"first-steps-{job.name}"}
    return measure(job._replace(settings=job.settings | short)).table


def _responses(run: "Run", job: Job) -> Measured:
    """The responses of the job's models: their scores, whether they pass, and what the oracle knows of them."""
    from helpers.pipeline import stages

    # Responses of each model with their scores, greedy and where it is wanted sampled.
    scored = {"greedy": stages.scores}
    if job.sampled:
        scored["sampled"] = stages.sampled_scores
    calibrated, published = stages.thresholds(run, "calibrated"), stages.thresholds(run, "published")
    parts = []
    for model in job.models:
        for decoding, scores_of in scored.items():
            rows = _with_truth(scores_of(run, model))
            rows = rows.assign(arm=job.arm, seed=run.settings.seed, model=model, decoding=decoding)
            rows["calibrated"] = thresholds.passes(rows, calibrated)
            rows["published"] = thresholds.passes(rows, published)
            parts.append(rows)
    table = pd.concat(parts, ignore_index=True)[COLUMNS]
    table = table.astype({"calibrated": int, "published": int, "good": int, "ended": int}).round({"score": 4})
    # What stands in the record beside the table.
    cuts = {"harmless": round(calibrated.harmless, 4), "helpful": round(calibrated.helpful, 4)}
    trained = [model for model in DPO_TRAINED if model in job.models]
    return Measured(table, cuts, [_held_out(stages.training_log(run, model), model, job) for model in trained])


def _with_truth(rows: pd.DataFrame) -> pd.DataFrame:
    """Responses with what the oracle knows: columns kind, good and truth (its score); prompt is the prompt's number."""
    from helpers.data.synthetic import assess

    verdicts = [assess(row.prompt, row.response) for row in rows.itertuples()]
    return rows.assign(
        kind=[verdict.kind for verdict in verdicts],
        good=[verdict.good for verdict in verdicts],
        truth=[verdict.score for verdict in verdicts],
        prompt=range(len(rows)),
    )


def _held_out(log: pd.DataFrame, model: str, job: Job) -> dict:
    """First and last evaluation on held-out pairs: loss, mean log-probability of chosen and rejected completions."""
    heldout = log[log["split"] == "heldout"]
    found: dict[str, Any] = {"arm": job.arm, "seed": job.settings["seed"], "model": model}
    for name in HELD_OUT:
        first, last = heldout[name].iloc[0], heldout[name].iloc[-1]
        found[name] = [round(float(first), 4), round(float(last), 4)]
    return found


def _log(run: "Run", job: Job) -> Measured:
    """The whole log of DPO from Base: a row a log event, with the settings that the experiment varies."""
    from helpers.pipeline import stages

    log = stages.training_log(run, "dpo")
    columns = ["step", "split", "loss", "rewards_margins", "rewards_accuracies", "logps_chosen", "logps_rejected"]
    own = {name: getattr(run.settings, name) for name in PUZZLE_GRID} | {"seed": run.settings.seed}
    return Measured(log[columns].round(5).assign(**own), {}, [])
