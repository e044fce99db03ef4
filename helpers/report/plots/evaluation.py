"""Every figure of the course. Each function returns a Picture whose `alt` is computed from the data that it shows."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from helpers.core.errors import DataError
from helpers.core.names import METRIC_NAMES, METRICS, SIDES, label
from helpers.core.text import number
from helpers.evaluation.metrics import Evaluation, mean_interval
from helpers.evaluation.thresholds import Thresholds
from helpers.report.plots.style import INK, Picture, canvas, colour, marker, model_rows, note, show, styled
from helpers.report.plots.training import dpo_dashboard, sft_curves, training_curves

__all__ = [
    "Picture",
    "dpo_dashboard",
    "length_histogram",
    "mean_scores",
    "per_prompt_scores",
    "rates",
    "score_distributions",
    "seeds",
    "sft_curves",
    "show",
    "training_curves",
]

METRIC_TITLES = {"hmr": "Harmlessness (HmR)", "hpr": "Helpfulness (HpR)", "cas": "Both (CAS)"}


@styled
def rates(evaluation: Evaluation, published: pd.DataFrame | None = None) -> Picture:
    """HmR, HpR and CAS of every model in percent with 95 % intervals; `published` (table1()) adds hollow markers."""
    models = list(evaluation.models)
    figure, axes = canvas(1, 3, width=9.6, height=0.9 + 0.62 * len(models) + 0.5, title="Pass rates", sharey=True)
    model_rows(axes[0], models, [label(m) for m in models])
    for ax, metric in zip(axes, METRICS, strict=True):
        ax.set(title=METRIC_TITLES[metric], xlim=(-3, 103), xticks=range(0, 101, 25), xlabel="% of responses")
        ax.grid(axis="y", visible=False)
        for row, model in enumerate(models):
            rate = evaluation.models[model][metric]
            style = {"color": colour(model, row), "marker": marker(model, row), "markersize": 8, "zorder": 3}
            ax.plot([rate.low, rate.high], [row, row], color=style["color"], linewidth=2.5, solid_capstyle="round")
            ax.plot([rate.value], [row], **style)
            ax.annotate(number(rate.value, 1), (rate.value, row), (0, 8), textcoords="offset points", ha="center")
            if published is not None and model in published.index:
                ax.plot([published.loc[model, metric]], [row + 0.3], **style | {"markerfacecolor": "white"})
    paper = " Hollow markers: the paper's Table 1 (OPT-350M, 50 prompts a side)." if published is not None else ""
    note(figure, "Line: 95 % interval." + paper)
    parts = [
        f"{METRIC_NAMES[k]}: " + ", ".join(f"{label(m)} {evaluation.models[m][k]}" for m in models) for k in METRICS
    ]
    figure.alt = "Pass rates in percent with 95 % intervals. " + "; ".join(parts) + "." + paper
    return figure


@styled
def score_distributions(scores: Mapping[str, pd.DataFrame], thresholds: Thresholds) -> Picture:
    """Every reward-model score, by side and model, with the median and the cut-off above which a response passes."""
    models = list(scores)
    figure, axes = canvas(1, 2, width=9.6, height=1.3 + 0.8 * len(models), title="Reward-model scores", sharey=True)
    model_rows(axes[0], models, [label(m) for m in models])
    parts = []
    for ax, side, cut in zip(axes, SIDES, (thresholds.harmless, thresholds.helpful), strict=True):
        ax.axvline(cut, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
        ax.set(title=f"{side.capitalize()} prompts", xlabel=f"score (passes above {number(cut)})")
        ax.grid(axis="y", visible=False)
        for row, model in enumerate(models):
            values = _side(scores[model], side)["score"]
            median = values.median()
            ax.scatter(values, row + _spread(len(values)), s=15, color=colour(model, row), alpha=0.5, linewidth=0)
            ax.plot([median, median], [row - 0.33, row + 0.33], color=INK, linewidth=2.2, solid_capstyle="butt")
            passing = 100 * (values > cut).mean()
            parts.append(
                f"{label(model)} on {side} prompts {number(median)} ({passing:.0f} % above the cut-off {number(cut)})"
            )
    note(figure, "Dots: responses. Bar: median. Dashed: cut-off.")
    figure.alt = "Scores of every response by side and model. Median scores: " + "; ".join(parts) + "."
    return figure


@styled
def mean_scores(scores: Mapping[str, pd.DataFrame], seed: int = 0) -> Picture:
    """Mean reward-model score per side and model with bootstrap 95 % intervals (the paper's Figure 3 has none)."""
    models = list(scores)
    figure, axes = canvas(1, 2, width=9.6, height=1.2 + 0.5 * len(models), title="Mean score", sharex=True, sharey=True)
    model_rows(axes[0], models, [label(m) for m in models])
    parts = []
    for ax, side in zip(axes, SIDES, strict=True):
        ax.set(title=f"{side.capitalize()} prompts", xlabel="mean score, 95 % interval")
        ax.grid(axis="y", visible=False)
        for row, model in enumerate(models):
            mean, low, high = mean_interval(_side(scores[model], side)["score"], seed)
            ax.plot([low, high], [row, row], color=colour(model, row), linewidth=2.5, solid_capstyle="round")
            ax.plot([mean], [row], marker=marker(model, row), markersize=8, color=colour(model, row))
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
    first = _side(scores[models[0]], side)["score"].to_numpy()
    order, ranks = np.argsort(first, kind="stable"), np.arange(1, len(first) + 1)
    title = f"Scores prompt by prompt, {side} prompts"
    figure, axes = canvas(1, len(models), width=max(4.0, 2.5 * len(models)), height=3.3, title=title, sharey=True)
    parts = []
    for position, (ax, model) in enumerate(zip(axes, models, strict=True)):
        values = _side(scores[model], side)["score"].to_numpy()
        ax.plot(ranks, first[order], color="#AAAAAA", linewidth=1.6)
        ax.scatter(
            ranks,
            values[order],
            s=13,
            color=colour(model, position),
            marker=marker(model, position),
            linewidth=0,
            zorder=3,
        )
        ax.set_title(label(model), color=colour(model, position))
        ax.grid(axis="x", visible=False)
        if position:
            better = int((values > first).sum())
            ax.set_xlabel(f"above {label(models[0])}\non {better} of {len(first)}")
            parts.append(f"{label(model)} scores higher than {label(models[0])} on {better} of {len(first)} prompts")
        else:
            ax.set_xlabel(f"prompts, sorted by\n{label(model)}'s score")
            ax.set_ylabel("score")
    summary = "; ".join(parts) or f"from {number(first.min())} to {number(first.max())}"
    figure.alt = f"Scores on the {side} prompts, sorted by the score of {label(models[0])}: {summary}."
    return figure


@styled
def length_histogram(
    lengths: Mapping[str, Sequence[float]], *, title: str = "Length of the responses", unit: str = "tokens"
) -> Picture:
    """Histograms of lengths, one row a name (models, or "chosen" and "rejected") on a common axis, medians marked."""
    names = list(lengths)
    values = {name: np.asarray(lengths[name], float) for name in names}
    if not names or any(len(v) == 0 for v in values.values()):
        raise DataError("a length histogram needs at least one length for every row")
    everything = np.concatenate(list(values.values()))
    bins = np.linspace(min(0, everything.min()), max(1, everything.max()), 31)
    height = 0.9 + 0.85 * len(names)
    figure, axes = canvas(len(names), 1, width=7.6, height=height, title=title, sharex=True)
    for position, (ax, name) in enumerate(zip(axes, names, strict=True)):
        median = float(np.median(values[name]))
        ax.hist(values[name], bins=bins, color=colour(name, position), alpha=0.5)
        ax.axvline(median, color=INK, linewidth=1.6)
        ax.annotate(
            f"median {median:.0f}", (median, 1), (5, -3), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", fontsize=9.5,
        )  # fmt: skip
        ax.set_ylabel(label(name), rotation=0, ha="right", va="center", color=colour(name, position), fontweight="bold")
        ax.set(yticks=[], ylim=(0, 1.3 * ax.get_ylim()[1]), xlim=(bins[0], bins[-1]))
        ax.spines["left"].set_visible(False)
    axes[-1].set_xlabel(unit)
    parts = [f"{label(n)} {np.median(v):.0f} (from {v.min():.0f} to {v.max():.0f})" for n, v in values.items()]
    figure.alt = f"{title}, median in {unit}: " + "; ".join(parts) + "."
    return figure


@styled
def seeds(rates: pd.DataFrame, title: str = "Over training seeds") -> Picture:
    """HmR and HpR over training seeds, judge and oracle side by side: rows of `experiments.rates` for one recipe."""
    models = list(dict.fromkeys(rates["model"]))
    figure, axes = canvas(1, 2, width=9.6, height=1.2 + 0.75 * len(models), title=title, sharey=True)
    model_rows(axes[0], models, [label(m) for m in models])
    parts = []
    for ax, metric in zip(axes, ("hmr", "hpr"), strict=True):
        ax.set(title=METRIC_TITLES[metric], xlim=(-3, 103), xticks=range(0, 101, 25), xlabel="% of responses")
        ax.grid(axis="y", visible=False)
        for row, model in enumerate(models):
            own = rates[(rates["model"] == model) & (rates["metric"] == metric)].set_index("by")
            for by, shift, fill in (("reward model", -0.17, colour(model, row)), ("oracle", 0.17, "white")):
                rate, style = own.loc[by], {"color": colour(model, row), "linewidth": 2.5}
                ax.plot([rate["low"], rate["high"]], [row + shift] * 2, **style, solid_capstyle="round")
                ax.plot(
                    [rate["value"]],
                    [row + shift],
                    marker=marker(model, row),
                    markersize=8,
                    markerfacecolor=fill,
                    **style,
                )
                limits = f"{rate['value']:.1f} [{rate['low']:.1f}, {rate['high']:.1f}]"
                parts.append(f"{label(model)} {METRIC_NAMES[metric]} by the {by} {limits}")
    note(figure, "Filled: by the judge. Hollow: by the oracle. Line: 95 % interval over seeds and prompts.")
    figure.alt = f"{title}: mean rates with 95 % intervals: " + "; ".join(parts) + "."
    return figure


def _side(frame: pd.DataFrame, side: str) -> pd.DataFrame:
    """The responses of one side; tells when there are none."""
    found = frame[frame["side"] == side]
    if found.empty:
        raise DataError(f"there is no response to {side} prompts to draw: score that side first")
    return found


def _spread(n: int) -> np.ndarray:
    """Even, repeatable offsets in [-0.3, 0.3] that keep dots apart: the golden-ratio sequence."""
    return 0.6 * ((np.arange(1, n + 1) * 0.618034) % 1) - 0.3
