"""What the report shows about the paper: ledger, re-analysis and experiments. Figures here, words in the templates.

The paper's scores are the embedded ones or a folder of the authors' files; the experiments are the tables of
data_cache/experiments/. Notebook 08 shows the same sections with the same functions, one by one.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers import experiments
from helpers.core.errors import DataError
from helpers.core.names import METRIC_NAMES, label
from helpers.core.profiles import RECIPES
from helpers.core.text import number
from helpers.experiments.dpo_puzzle import LN_2, effects, implied_sigma, predictions, summarise
from helpers.report.paper import authors_files, claims, reanalysis
from helpers.report.paper.published_figures import published, scores, table1
from helpers.report.plots import evaluation as plots
from helpers.report.plots import paper as paper_plots

# The cut-offs of the map, on harmful and on helpful prompts
CUTS = (np.arange(-6.0, 0.01, 0.1).round(1), np.arange(-5.0, 1.01, 0.1).round(1))


def gather(folder: Path | str | None = None) -> dict[str, Any]:
    """Everything that the page says about the paper, by section; a section is {} where its experiment was not run.

    folder: the authors' files, a clone of their repository; None for the embedded figures.
    Raises DataError when the folder's scores are not the published ones.
    """
    rows = read(folder)
    ledger = claims.ledger(rows)
    return {
        # The paper's own figures
        "artefacts": folder is not None,
        "ledger": ledger,
        "tally": claims.count(ledger),
        "own_scores": own_scores(rows),
        "published": published(),
        # Our experiments
        "puzzle": dpo_puzzle(),
        "printed": printed_loss(),
        "faults": one_change("faults", "recommended", "One fault at a time"),
        "cleaning": one_change("cleaning", "all pairs", "Training on what an audit leaves"),
        "cleaning_added": added_by_dpo("cleaning"),
        "seeds": over_seeds(),
    }


def read(folder: Path | str | None) -> pd.DataFrame:
    """The paper's scores: those in a folder of the authors' files, or the embedded ones when it is None.

    Returns `published_figures.scores()`. Raises DataError when the folder's differ from the embedded ones.
    """
    if folder is None:
        return scores()
    rows = authors_files.figures(folder)
    if not rows.equals(scores()):
        raise DataError(f"{folder} holds other prompts, responses or scores than the published ones of commit 868ecd0")
    return rows


# ------------------------------------------------------------------------------------- the paper's own scores


def own_scores(rows: pd.DataFrame) -> dict[str, Any]:
    """What the published scores say: rates, tests, power, cut-offs, form and prompts, with their figures.

    rows: `published_figures.scores()`.
    """
    n = rows["prompt"].nunique()
    lead = reanalysis.threshold_map(rows, *CUTS)
    lengths = reanalysis.length_and_score(rows)
    clear = (lengths["low"] > 0) | (lengths["high"] < 0)
    second_hand = pd.DataFrame(published()["second_hand"]["models"]).T
    return {
        "n": n,
        "responses": len(rows),
        # Table 1: does it follow from the scores, and can each percentage be a number of prompts?
        "gap": reanalysis.table1_gap(rows),
        "grim": reanalysis.grim(table1(), n).to_numpy(),
        "grim_second_hand": reanalysis.grim(second_hand, n).to_numpy(),
        # Which differences hold, and what this number of prompts can show
        **_tests(rows),
        "power": reanalysis.power_table(rows),
        # Cut-offs
        "lead": lead.to_numpy(),
        "map": paper_plots.threshold_map(lead),
        # Form and length of the responses
        "forms": reanalysis.forms(rows),
        "without": {name: _without(rows, column) for name, column in reanalysis.FORMS.items()},
        "correlations": len(lengths),
        "correlations_clear": int(clear.sum()),
        "length": paper_plots.score_and_length(rows),
        # Prompts
        "prompts": reanalysis.prompt_faults(rows),
    }


def _tests(rows: pd.DataFrame) -> dict[str, Any]:
    """Rates with intervals, tests of all pairs of models, and which of them hold."""
    found = reanalysis.evaluate(rows)
    harmless = [c for c in found.comparisons if c.metric == "hmr"]
    holds = []
    for c in found.comparisons:
        if c.p_adjusted < claims.LEVEL:
            holds.append(f"{label(c.b)} over {label(c.a)} in {METRIC_NAMES[c.metric]}")
    return {
        "rates": found.table().reset_index(),
        "cochran": reanalysis.cochran(rows).set_index("metric")["p_value"],
        "least_hmr": min(harmless, key=lambda c: c.p_value),
        "comparisons": found.comparison_table(),
        "holds": holds,
        "differences": paper_plots.differences(found, "The paper's models, pair by pair"),
    }


def _without(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """`reanalysis.without_form` as readers see it: percent with one digit, and the number of responses left."""
    table = reanalysis.without_form(rows, column)
    shown = table[list(METRIC_NAMES)].map("{:.1f}".format).rename(columns=METRIC_NAMES)
    shown["responses, harmful"], shown["responses, helpful"] = table["n_hmr"], table["n_hpr"]
    return shown.rename(index=label).rename_axis("model").reset_index()


# ------------------------------------------------------------------------------------------ our experiments


def made(name: str) -> str:
    """When and how the table of an experiment was made, in one sentence."""
    record = experiments.record(name)
    seeds, first = len({run["seed"] for run in record["runs"]}), record["runs"][0]
    sizes = ""
    for size, what in (("train_pairs", "training pairs"), ("eval_prompts", "prompts a side")):
        if size in first:
            sizes += f", {first[size]} {what}"
    return (
        f"{len(record['runs'])} runs over {seeds} seeds{sizes}, made on {record['date']} with {record['command']}; "
        f"{record['rows']:,} rows, sha256 {record['sha256'][:12]}…"
    )


def dpo_puzzle() -> dict[str, Any]:
    """The noise that would explain the published DPO loss, and the predictions against the grid where it was run.

    sigma_first, sigma_last: `dpo_puzzle.implied_sigma` of the first and the last tenth of the training, in nats.
    """
    # The paper's curve, and the noise that would lift it so high by itself
    curves, beta = published()["loss_curves"], published()["recipe"]["dpo"]["beta"]
    curve = curves["dpo"]
    values = {
        "curve": curve,
        "hybrid": curves["sft_dpo"],
        "ln_2": LN_2,
        "sigma_first": implied_sigma(curve["tenths"][0], beta),
        "sigma_last": implied_sigma(curve["tenths"][-1], beta),
        "losses": paper_plots.published_losses(curves),
    }
    # What the grid of our own runs shows
    if experiments.there("puzzle"):
        table = experiments.load("puzzle")
        runs = summarise(table)
        values["predictions"] = predictions(table)
        values["made"] = made("puzzle")
        values["figure"] = paper_plots.puzzle(runs)
        values["effects"] = effects(runs).reset_index()
    return values


def printed_loss() -> dict[str, Any]:
    """SFT+DPO with DPO's loss and with the one that the paper prints: what each does; {} where it was not run."""
    if not experiments.there("printed"):
        return {}
    table = experiments.load("printed")
    held_out = pd.DataFrame(experiments.record("printed")["held_out"])
    rates = experiments.rates(table).set_index(["arm", "model", "metric", "by"])
    rows = []
    for arm, own in held_out.groupby("arm", sort=False):
        row = {"loss": arm}
        # How far training moved the log-probabilities of held-out completions
        for part in ("chosen", "rejected"):
            row[f"log π({part}), nats"] = _moved(own[f"logps_{part}"])
        # How good the responses are, how long, and how many of them garbage
        for metric in ("hmr", "hpr"):
            rate = rates.loc[(arm, "sft_dpo", metric, "oracle")]
            row[f"{METRIC_NAMES[metric]}, oracle"] = f"{rate['value']:.1f} [{rate['low']:.1f}, {rate['high']:.1f}]"
        responses = table[(table["arm"] == arm) & (table["model"] == "sft_dpo")]
        row["tokens"] = f"{responses['tokens'].mean():.1f}"
        row["garbage"] = f"{100 * (responses['kind'] == 'garbage').mean():.1f} %"
        rows.append(row)
    return {"table": pd.DataFrame(rows), "made": made("printed")}


def _moved(values: pd.Series) -> str:
    """The mean change over seeds with its range, as "−3.1 (−4 to −2)"; values: (before, after) of each seed."""
    moved = [after - before for before, after in values]
    return f"{number(float(np.mean(moved)))} ({number(min(moved))} to {number(max(moved))})"


def one_change(name: str, baseline: str, title: str) -> dict[str, Any]:
    """What each arm of an experiment changes in the CAS of SFT+DPO against its baseline; {} where it was not run.

    name: the experiment. baseline: the arm that the others are compared with. title: of the figure.
    """
    if not experiments.there(name):
        return {}
    change = experiments.changes(experiments.load(name), baseline, "sft_dpo")
    change = change[change["metric"] == "cas"]
    # By the oracle, from the worst arm to the best, and those whose interval lies clear of 0
    by_oracle = change[change["by"] == "oracle"].sort_values("value")
    clear = by_oracle[(by_oracle["high"] < 0) | (by_oracle["low"] > 0)]
    worst, best = by_oracle.iloc[0], by_oracle.iloc[-1]
    return {
        "figure": paper_plots.arms(change, title),
        "worst": worst["arm"],
        "worst_points": points(worst),
        "best": best["arm"],
        "best_points": points(best),
        "certain": clear["arm"].tolist(),
        "made": made(name),
    }


def added_by_dpo(name: str) -> dict[str, str]:
    """What SFT+DPO adds to SFT in CAS by the oracle, in each arm of an experiment; {} where it was not run."""
    if not experiments.there(name):
        return {}
    gaps = experiments.differences(experiments.load(name), "sft", "sft_dpo")
    own = gaps[(gaps["metric"] == "cas") & (gaps["by"] == "oracle")].set_index("arm")
    return {arm: points(row) for arm, row in own.iterrows()}


def over_seeds() -> dict[str, Any]:
    """The four models over training seeds, and what SFT+DPO adds to SFT; {} where it was not run."""
    if not experiments.there("seeds"):
        return {}
    table = experiments.load("seeds")
    rates = experiments.rates(table)
    greedy = rates[rates["decoding"] == "greedy"]
    # A figure and a difference a recipe, the recommended one first
    figures, gaps = [], {}
    for recipe in reversed(RECIPES):
        figures.append(plots.seeds(greedy[greedy["arm"] == recipe], f"Over training seeds, {recipe} recipe"))
        gap = hybrid_over_sft(table, recipe)
        gaps[recipe] = {by: points(row) for by, row in gap.iterrows()}
    return {"n": table["seed"].nunique(), "figures": figures, "gaps": gaps, "made": made("seeds")}


def hybrid_over_sft(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    """SFT+DPO minus SFT in CAS of greedy responses over seeds, in points, under one recipe (`arm`).

    table: of the experiment "seeds". Returns columns value, low, high; index: by whom (oracle, reward model, ...).
    """
    gaps = experiments.differences(table, "sft", "sft_dpo")
    own = gaps[(gaps["arm"] == arm) & (gaps["decoding"] == "greedy") & (gaps["metric"] == "cas")]
    return own.set_index("by")[["value", "low", "high"]]


def points(row: pd.Series) -> str:
    """ "+4.8 points [+2.3, +7.7]"."""
    return f"{row['value']:+.1f} points [{row['low']:+.1f}, {row['high']:+.1f}]".replace("-", "\N{MINUS SIGN}")
