"""Figures of an evaluation: pass rates, scores and lengths. Each returns a Picture whose `alt` is computed.

In all of them scores: model -> scores frame of a run (columns side, prompt, score), models in the order of drawing.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from helpers.core.errors import DataError
from helpers.core.names import METRIC_NAMES, METRICS, SIDES, label
from helpers.core.text import number
from helpers.evaluation.metrics import Evaluation, Rate, mean_interval
from helpers.evaluation.thresholds import Thresholds
from helpers.report.plots.style import INK, Picture, canvas, colour, interval, marker, model_rows, note, styled

METRIC_TITLES = {"hmr": "Harmlessness (HmR)", "hpr": "Helpfulness (HpR)", "cas": "Both (CAS)"}
BY = (
    ("reward model", -0.17),
    ("oracle", 0.17),
)  # who says that a response passes, and how far from its row it is drawn


@styled
def rates(evaluation: Evaluation, published: pd.DataFrame | None = None) -> Picture:
    """HmR, HpR and CAS of every model in percent with 95 % intervals; `published` (table1()) adds hollow markers."""
    models = list(evaluation.models)
    figure, axes = canvas(1, 3, width=9.6, height=0.9 + 0.62 * len(models) + 0.5, title="Pass rates", sharey=True)
    model_rows(axes[0], models)
    parts = []
    # A panel a metric, a row a model
    for ax, metric in zip(axes, METRICS, strict=True):
        _percent_axis(ax, metric)
        for row, model in enumerate(models):
            # The paper has a rate for its own models only
            theirs = None
            if published is not None and model in published.index:
                theirs = published.loc[model, metric]
            _rate(ax, row, model, evaluation.models[model][metric], theirs)
        # In words
        values = ", ".join(f"{label(model)} {evaluation.models[model][metric]}" for model in models)
        parts.append(f"{METRIC_NAMES[metric]}: {values}")
    paper = " Hollow markers: the paper's Table 1 (OPT-350M, 50 prompts a side)." if published is not None else ""
    note(figure, "Line: 95 % interval." + paper)
    figure.alt = "Pass rates in percent with 95 % intervals. " + "; ".join(parts) + "." + paper
    return figure


def _percent_axis(ax: Axes, metric: str) -> None:
    """Axes for rates of one metric, from 0 to 100 %."""
    ax.set(title=METRIC_TITLES[metric], xlim=(-3, 103), xticks=range(0, 101, 25), xlabel="% of responses")
    ax.grid(axis="y", visible=False)


def _rate(ax: Axes, row: int, model: str, rate: Rate, theirs: float | None) -> None:
    """One rate with its interval and its value above; the paper's rate, where there is one, hollow below."""
    tint = colour(model, row)
    mark = {"marker": marker(model, row), "markersize": 8, "zorder": 3}
    interval(ax, row, (rate.low, rate.value, rate.high), tint, **mark)
    ax.annotate(number(rate.value, 1), (rate.value, row), (0, 8), textcoords="offset points", ha="center")
    if theirs is not None:
        ax.plot([theirs], [row + 0.3], color=tint, markerfacecolor="white", **mark)


@styled
def score_distributions(scores: Mapping[str, pd.DataFrame], thresholds: Thresholds) -> Picture:
    """Every reward-model score, by side and model, with the median and the cut-off above which a response passes."""
    models = list(scores)
    figure, axes = canvas(1, 2, width=9.6, height=1.3 + 0.8 * len(models), title="Reward-model scores", sharey=True)
    model_rows(axes[0], models)
    parts = []
    for ax, side, cut in zip(axes, SIDES, (thresholds.harmless, thresholds.helpful), strict=True):
        # The cut-off of this side
        ax.axvline(cut, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
        ax.set(title=f"{side.capitalize()} prompts", xlabel=f"score (passes above {number(cut)})")
        ax.grid(axis="y", visible=False)
        for row, model in enumerate(models):
            # A dot a response, moved up or down a little so that dots stay apart, and the median
            values = _side(scores[model], side)["score"]
            median = values.median()
            ax.scatter(values, row + _spread(len(values)), s=15, color=colour(model, row), alpha=0.5, linewidth=0)
            ax.plot([median, median], [row - 0.33, row + 0.33], color=INK, linewidth=2.2, solid_capstyle="butt")
            passing = f"{100 * (values > cut).mean():.0f} % above the cut-off {number(cut)}"
            parts.append(f"{label(model)} on {side} prompts {number(median)} ({passing})")
    note(figure, "Dots: responses. Bar: median. Dashed: cut-off.")
    figure.alt = "Scores of every response by side and model. Median scores: " + "; ".join(parts) + "."
    return figure


@styled
def mean_scores(scores: Mapping[str, pd.DataFrame], seed: int = 0) -> Picture:
    """Mean reward-model score per side and model with bootstrap 95 % intervals (the paper's Figure 3 has none).

    seed: of the bootstrap.
    """
    models = list(scores)
    figure, axes = canvas(1, 2, width=9.6, height=1.2 + 0.5 * len(models), title="Mean score", sharex=True, sharey=True)
    model_rows(axes[0], models)
    parts = []
    for ax, side in zip(axes, SIDES, strict=True):
        ax.set(title=f"{side.capitalize()} prompts", xlabel="mean score, 95 % interval")
        ax.grid(axis="y", visible=False)
        for row, model in enumerate(models):
            # The mean with its interval, its value above
            mean, low, high = mean_interval(_side(scores[model], side)["score"], seed)
            interval(ax, row, (low, mean, high), colour(model, row), marker=marker(model, row), markersize=8)
            ax.annotate(number(mean), (mean, row), (0, 8), textcoords="offset points", ha="center")
            parts.append(f"{label(model)} {number(mean)} [{number(low)}, {number(high)}] on {side} prompts")
        ax.margins(x=0.12)
    figure.alt = "Mean reward-model scores with bootstrap 95 % intervals: " + "; ".join(parts) + "."
    return figure


@styled
def per_prompt_scores(scores: Mapping[str, pd.DataFrame], side: str) -> Picture:
    """Scores prompt by prompt on one side ("harmful" or "helpful"): prompts sorted by the first model's score.

    One panel a model; the first model's sorted scores are repeated in grey, so that a dot above the grey line is a
    prompt on which the model does better than the first one.
    """
    models = list(scores)
    # The first model's scores give the order of the prompts in every panel
    first = _side(scores[models[0]], side)["score"].to_numpy()
    order = np.argsort(first, kind="stable")
    title = f"Scores prompt by prompt, {side} prompts"
    figure, axes = canvas(1, len(models), width=max(4.0, 2.5 * len(models)), height=3.3, title=title, sharey=True)
    parts = []
    for position, (ax, model) in enumerate(zip(axes, models, strict=True)):
        values = _side(scores[model], side)["score"].to_numpy()
        _prompt_panel(ax, values[order], first[order], model, position)
        if position == 0:
            ax.set_xlabel(f"prompts, sorted by\n{label(model)}'s score")
            ax.set_ylabel("score")
            continue
        # On how many prompts does it score higher than the first model?
        better = int((values > first).sum())
        ax.set_xlabel(f"above {label(models[0])}\non {better} of {len(first)}")
        parts.append(f"{label(model)} scores higher than {label(models[0])} on {better} of {len(first)} prompts")
    summary = "; ".join(parts) or f"from {number(first.min())} to {number(first.max())}"
    figure.alt = f"Scores on the {side} prompts, sorted by the score of {label(models[0])}: {summary}."
    return figure


def _prompt_panel(ax: Axes, values: np.ndarray, first: np.ndarray, model: str, position: int) -> None:
    """A model's scores as dots over the first model's as a grey line; both in the first model's order of prompts."""
    ranks = np.arange(1, len(first) + 1)
    tint = colour(model, position)
    ax.plot(ranks, first, color="#AAAAAA", linewidth=1.6)
    ax.scatter(ranks, values, s=13, color=tint, marker=marker(model, position), linewidth=0, zorder=3)
    ax.set_title(label(model), color=tint)
    ax.grid(axis="x", visible=False)


@styled
def length_histogram(
    lengths: Mapping[str, Sequence[float]], *, title: str = "Length of the responses", unit: str = "tokens"
) -> Picture:
    """Histograms of lengths, one row a name on a common axis, medians marked.

    lengths: name (a model, or "chosen" and "rejected") -> lengths in `unit`.
    Raises DataError when there is no length to draw for a row.
    """
    values = {name: np.asarray(own, float) for name, own in lengths.items()}
    if not values or not all(map(len, values.values())):
        raise DataError("a length histogram needs at least one length for every row")
    # The same bins for every row, from 0 or the shortest to the longest
    everything = np.concatenate(list(values.values()))
    bins = np.linspace(min(0, everything.min()), max(1, everything.max()), 31)
    # A row a name
    height = 0.9 + 0.85 * len(values)
    figure, axes = canvas(len(values), 1, width=7.6, height=height, title=title, sharex=True)
    parts = []
    for position, (ax, (name, own)) in enumerate(zip(axes, values.items(), strict=True)):
        _histogram(ax, own, bins, name, position)
        parts.append(f"{label(name)} {np.median(own):.0f} (from {own.min():.0f} to {own.max():.0f})")
    axes[-1].set_xlabel(unit)
    figure.alt = f"{title}, median in {unit}: " + "; ".join(parts) + "."
    return figure


def _histogram(ax: Axes, values: np.ndarray, bins: np.ndarray, name: str, position: int) -> None:
    """One row of histograms: the bars, the median as a line with its value, the name on the left."""
    median, tint = float(np.median(values)), colour(name, position)
    ax.hist(values, bins=bins, color=tint, alpha=0.5)
    ax.axvline(median, color=INK, linewidth=1.6)
    place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    ax.annotate(f"median {median:.0f}", (median, 1), (5, -3), **place, va="top", fontsize=9.5)
    ax.set_ylabel(label(name), rotation=0, ha="right", va="center", color=tint, fontweight="bold")
    ax.set(yticks=[], ylim=(0, 1.3 * ax.get_ylim()[1]), xlim=(bins[0], bins[-1]))
    ax.spines["left"].set_visible(False)


@styled
def seeds(rates: pd.DataFrame, title: str = "Over training seeds") -> Picture:
    """HmR and HpR over training seeds, by the reward model and by the oracle, one below the other.

    rates: rows of `experiments.rates` of one recipe and decoding, in percent.
    """
    # Models in the order in which they first occur
    models = list(dict.fromkeys(rates["model"]))
    figure, axes = canvas(1, 2, width=9.6, height=1.2 + 0.75 * len(models), title=title, sharey=True)
    model_rows(axes[0], models)
    parts = []
    for ax, metric in zip(axes, ("hmr", "hpr"), strict=True):
        _percent_axis(ax, metric)
        for row, model in enumerate(models):
            own = rates[(rates["model"] == model) & (rates["metric"] == metric)].set_index("by")
            parts += _rates_by(ax, row, model, own, METRIC_NAMES[metric])
    note(figure, "Filled: by the reward model. Hollow: by the oracle. Line: 95 % interval over seeds and prompts.")
    figure.alt = f"{title}: mean rates with 95 % intervals: " + "; ".join(parts) + "."
    return figure


def _rates_by(ax: Axes, row: int, model: str, rates: pd.DataFrame, metric: str) -> list[str]:
    """One model's rate by the reward model, filled, and by the oracle, hollow; returns both in words."""
    said, tint = [], colour(model, row)
    for by, shift in BY:
        low, value, high = rates.loc[by, ["low", "value", "high"]]
        # Hollow by the oracle, filled by the reward model
        fill = "white" if by == "oracle" else tint
        mark = {"marker": marker(model, row), "markersize": 8, "markerfacecolor": fill, "linewidth": 2.5}
        interval(ax, row + shift, (low, value, high), tint, **mark)
        said.append(f"{label(model)} {metric} by the {by} {value:.1f} [{low:.1f}, {high:.1f}]")
    return said


def _side(frame: pd.DataFrame, side: str) -> pd.DataFrame:
    """The responses to the prompts of one side. Raises DataError when there are none."""
    found = frame[frame["side"] == side]
    if found.empty:
        raise DataError(f"there is no response to {side} prompts to draw: score that side first")
    return found


def _spread(n: int) -> np.ndarray:
    """Even, repeatable offsets in [-0.3, 0.3] that keep dots apart: the golden-ratio sequence."""
    return 0.6 * ((np.arange(1, n + 1) * 0.618034) % 1) - 0.3
