"""What the report shows about the paper: ledger, re-analysis and experiments. Figures here, words in the templates.

The paper's scores are the embedded ones or a folder of the authors' files; the experiments are the tables of
data_cache/experiments/. Notebook 08 walks through the same functions.
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

CUTS = (np.arange(-6.0, 0.01, 0.1).round(1), np.arange(-5.0, 1.01, 0.1).round(1))  # harmful, helpful prompts


def gather(folder: Path | str | None = None) -> dict[str, Any]:
    """Everything that the page says about the paper; `folder`: the authors' files, else the embedded figures."""
    rows = read(folder)
    found = claims.ledger(rows)
    return {
        "artefacts": folder is not None,
        "ledger": found,
        "tally": claims.count(found),
        "own_scores": own_scores(rows),
        "published": published(),
        "puzzle": dpo_puzzle(),
        "printed": printed_loss(),
        "faults": one_change("faults", "recommended", "One fault at a time"),
        "cleaning": one_change("cleaning", "all pairs", "Training on what an audit leaves"),
        "cleaning_added": added_by_dpo("cleaning"),
        "seeds": over_seeds(),
    }


def read(folder: Path | str | None) -> pd.DataFrame:
    """The paper's scores. Raises DataError when the folder's differ from the embedded ones."""
    if folder is None:
        return scores()
    rows = authors_files.figures(folder)
    if not rows.equals(scores()):
        raise DataError(f"{folder} holds other prompts, responses or scores than the published ones of commit 868ecd0")
    return rows


# ------------------------------------------------------------------------------------- the paper's own scores


def own_scores(rows: pd.DataFrame) -> dict[str, Any]:
    """What the published scores say: rates, tests, power, cut-offs, form and prompts, with their figures."""
    found, n = reanalysis.evaluate(rows), rows["prompt"].nunique()
    other = pd.DataFrame(published()["second_hand"]["models"]).T
    overall = reanalysis.cochran(rows).set_index("metric")["p_value"]
    holds = [c for c in found.comparisons if c.p_adjusted < claims.LEVEL]
    lead = reanalysis.threshold_map(rows, *CUTS)
    lengths = reanalysis.length_and_score(rows)
    return {
        "n": n,
        "responses": len(rows),
        "gap": reanalysis.table1_gap(rows),
        "grim": reanalysis.grim(table1(), n).to_numpy(),
        "grim_second_hand": reanalysis.grim(other, n).to_numpy(),
        "rates": found.table().reset_index(),
        "cochran": overall,
        "least_hmr": min((c for c in found.comparisons if c.metric == "hmr"), key=lambda c: c.p_value),
        "comparisons": found.comparison_table(),
        "holds": [f"{label(c.b)} over {label(c.a)} in {METRIC_NAMES[c.metric]}" for c in holds],
        "differences": paper_plots.differences(found, "The paper's models, pair by pair"),
        "power": reanalysis.power_table(rows),
        "lead": lead.to_numpy(),
        "map": paper_plots.threshold_map(lead),
        "forms": reanalysis.forms(rows),
        "without": {name: _without(rows, column) for name, column in reanalysis.FORMS.items()},
        "correlations": len(lengths),
        "correlations_clear": int(((lengths["low"] > 0) | (lengths["high"] < 0)).sum()),
        "length": paper_plots.score_and_length(rows),
        "prompts": reanalysis.prompt_faults(rows),
    }


def _without(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    table = reanalysis.without_form(rows, column)
    shown = pd.DataFrame({METRIC_NAMES[m]: table[m].map("{:.1f}".format) for m in METRIC_NAMES})
    shown["responses, harmful"], shown["responses, helpful"] = table["n_hmr"], table["n_hpr"]
    return shown.rename(index=label).rename_axis("model").reset_index()


# ------------------------------------------------------------------------------------------ our experiments


def made(name: str) -> str:
    """When and how the table of an experiment was made, in one sentence."""
    record = experiments.record(name)
    seeds, one = len({run["seed"] for run in record["runs"]}), record["runs"][0]
    sizes = {"train_pairs": "training pairs", "eval_prompts": "prompts a side"}
    sized = "".join(f", {one[name]} {what}" for name, what in sizes.items() if name in one)
    return (
        f"{len(record['runs'])} runs over {seeds} seeds{sized}, made on {record['date']} with {record['command']}; "
        f"{record['rows']:,} rows, sha256 {record['sha256'][:12]}…"
    )


def dpo_puzzle() -> dict[str, Any]:
    """The noise that would explain the published DPO loss, and the predictions against the grid where it was run."""
    curve, beta = published()["loss_curves"]["dpo"], published()["recipe"]["dpo"]["beta"]
    values = {
        "curve": curve,
        "hybrid": published()["loss_curves"]["sft_dpo"],
        "ln_2": LN_2,
        "sigma_first": implied_sigma(curve["tenths"][0], beta),
        "sigma_last": implied_sigma(curve["tenths"][-1], beta),
        "losses": paper_plots.published_losses(published()["loss_curves"]),
    }
    if experiments.there("puzzle"):
        table = experiments.load("puzzle")
        runs = summarise(table)
        values |= {"predictions": predictions(table), "made": made("puzzle")}
        values |= {"figure": paper_plots.puzzle(runs), "effects": effects(runs).reset_index()}
    return values


def printed_loss() -> dict[str, Any]:
    """SFT+DPO with DPO's loss and with the one that the paper prints: what each does; {} where it was not run."""
    if not experiments.there("printed"):
        return {}
    table, looks = experiments.load("printed"), pd.DataFrame(experiments.record("printed")["held_out"])
    rates = experiments.rates(table).set_index(["arm", "model", "metric", "by"])
    rows = []
    for arm, own in looks.groupby("arm", sort=False):
        answers = table[(table["arm"] == arm) & (table["model"] == "sft_dpo")]
        row = {"loss": arm}
        for side in ("chosen", "rejected"):
            moved = [after - before for before, after in own[f"logps_{side}"]]
            spread = f"{number(min(moved))} to {number(max(moved))}"
            row[f"log π({side}), nats"] = f"{number(float(np.mean(moved)))} ({spread})"
        for metric in ("hmr", "hpr"):
            rate = rates.loc[(arm, "sft_dpo", metric, "oracle")]
            row[f"{METRIC_NAMES[metric]}, oracle"] = f"{rate['value']:.1f} [{rate['low']:.1f}, {rate['high']:.1f}]"
        rows.append(row | {"tokens": f"{answers['tokens'].mean():.1f}", "garbage": _share(answers["kind"], "garbage")})
    return {"table": pd.DataFrame(rows), "made": made("printed")}


def _share(kinds: pd.Series, kind: str) -> str:
    return f"{100 * (kinds == kind).mean():.1f} %"


def one_change(name: str, baseline: str, title: str) -> dict[str, Any]:
    """What each arm of an experiment changes in the CAS of SFT+DPO against its baseline; {} where it was not run."""
    if not experiments.there(name):
        return {}
    change = experiments.changes(experiments.load(name), baseline, "sft_dpo")
    change = change[change["metric"] == "cas"]
    true = change[change["by"] == "oracle"].sort_values("value")
    clear = true[(true["high"] < 0) | (true["low"] > 0)]
    return {
        "figure": paper_plots.arms(change, title),
        "worst": true["arm"].iloc[0],
        "worst_points": points(true.iloc[0]),
        "best": true["arm"].iloc[-1],
        "best_points": points(true.iloc[-1]),
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
    gaps = {arm: hybrid_over_sft(table, arm) for arm in reversed(RECIPES)}
    return {
        "n": table["seed"].nunique(),
        "figures": [plots.seeds(greedy[greedy["arm"] == arm], f"Over training seeds, {arm} recipe") for arm in gaps],
        "gaps": {arm: {by: points(row) for by, row in gap.iterrows()} for arm, gap in gaps.items()},
        "made": made("seeds"),
    }


def hybrid_over_sft(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    """SFT+DPO minus SFT in CAS of greedy answers over seeds: index oracle, judge, ...; columns value, low, high."""
    gaps = experiments.differences(table, "sft", "sft_dpo")
    own = gaps[(gaps["arm"] == arm) & (gaps["decoding"] == "greedy") & (gaps["metric"] == "cas")]
    return own.set_index("by")[["value", "low", "high"]]


def points(row: pd.Series) -> str:
    """ "+4.8 points [+2.3, +7.7]"."""
    return f"{row['value']:+.1f} points [{row['low']:+.1f}, {row['high']:+.1f}]".replace("-", "\N{MINUS SIGN}")
