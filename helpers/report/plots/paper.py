"""Figures about the paper and about experiments of many trainings. Each returns a Picture whose `alt` is computed."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm

from helpers.core.methods import PAPER_MODELS
from helpers.core.names import METRIC_NAMES, METRICS, SIDES, label
from helpers.core.text import number
from helpers.evaluation.metrics import Evaluation
from helpers.experiments.dpo_puzzle import LN_2
from helpers.report.paper.claims import LEVEL
from helpers.report.plots.style import (
    ACCENT,
    INK,
    OTHERS,
    QUIET,
    REJECTED,
    Picture,
    canvas,
    colour,
    interval,
    marker,
    named_rows,
    note,
    styled,
)

ARM = ["lora_targets", "dpo_learning_rate", "dropout", "dpo_reference"]  # what an arm of the DPO experiment fixes
LOSSES = (("train_loss", "Mean in training"), ("heldout_loss", "Held out"))


@styled
def differences(evaluation: Evaluation, title: str) -> Picture:
    """Every pair of models in each metric: the difference in points with its 95 % interval; filled where it holds."""
    # A panel a metric, a row a pair of models
    pairs = list(dict.fromkeys((c.a, c.b) for c in evaluation.comparisons))
    figure, axes = canvas(1, 3, width=9.6, height=1.2 + 0.4 * len(pairs), title=title, sharey=True)
    named_rows(axes[0], [f"{label(b)} − {label(a)}" for a, b in pairs])
    places = {model: place for place, model in enumerate(evaluation.models)}
    for ax, metric in zip(axes, METRICS, strict=True):
        ax.axvline(0, color=INK, linewidth=1.2)
        ax.set(title=METRIC_NAMES[metric], xlabel="points")
        ax.grid(axis="y", visible=False)
    parts = []
    for c in sorted(evaluation.comparisons, key=lambda c: METRICS.index(c.metric)):
        # Filled where the difference holds after correction, hollow where the models are not told apart
        holds = c.p_adjusted < LEVEL
        tint = colour(c.b, places[c.b])
        mark = {"marker": "o", "linestyle": "none", "markerfacecolor": tint if holds else "white", "markersize": 8}
        ax, row = axes[METRICS.index(c.metric)], pairs.index((c.a, c.b))
        interval(ax, row, (c.low, c.difference, c.high), tint, **mark)
        verdict = "holds" if holds else "not told apart"
        parts.append(f"{METRIC_NAMES[c.metric]} {label(c.b)} − {label(c.a)} {number(c.difference, 1)} ({verdict})")
    note(figure, "Line: 95 % interval. Filled: holds after Holm's correction. Hollow: not told apart.")
    figure.alt = f"{title}, in points: " + "; ".join(parts) + "."
    return figure


@styled
def threshold_map(lead: pd.DataFrame) -> Picture:
    """Where SFT+DPO leads in CAS and where another model does, for every pair of cut-offs.

    lead: `reanalysis.threshold_map(...)`, in points; it must reach the paper's cut-offs, -3 and -2.
    """
    figure, (ax,) = canvas(1, 1, width=6.4, height=4.9, title="CAS of SFT+DPO minus the best other model")
    # The map, its colours centred on no lead at all
    xs, ys, values = lead.columns.to_numpy(float), lead.index.to_numpy(float), lead.to_numpy()
    reach = max(1.0, np.abs(values).max())
    mesh = ax.pcolormesh(xs, ys, values, cmap="PuOr", norm=TwoSlopeNorm(0, -reach, reach), shading="nearest")
    figure.colorbar(mesh, ax=ax, label="points")
    # The paper's place on it
    ax.plot([-3], [-2], "o", color=INK, markerfacecolor="white", markersize=9)
    ax.annotate("the paper's cut-offs", (-3, -2), (8, 8), textcoords="offset points", fontsize=9.5)
    ax.set(xlabel="cut-off on harmful prompts", ylabel="cut-off on helpful prompts")
    ax.grid(visible=False)
    # In words
    row, column = np.abs(ys + 2).argmin(), np.abs(xs + 3).argmin()
    here = number(float(values[row, column]), 1)
    lowest, highest = number(values.min(), 1), number(values.max(), 1)
    figure.alt = (
        "CAS of SFT+DPO minus the best other model for every pair of cut-offs. It leads at "
        f"{(values > 0).mean():.0%} of them; from {lowest} to {highest} points, {here} at the paper's cut-offs."
    )
    return figure


@styled
def score_and_length(rows: pd.DataFrame) -> Picture:
    """Score against length of every published response, by side and model.

    rows: `published_figures.scores()`; score is a raw logit, characters the length.
    """
    figure, axes = canvas(1, 2, width=9.6, height=3.6, title="Score against length of the response", sharey=True)
    parts = []
    # A panel a side, a dot a response
    for ax, side in zip(axes, SIDES, strict=True):
        on_side = rows[rows["side"] == side]
        for model in PAPER_MODELS:
            own = on_side[on_side["model"] == model]
            look = {"color": colour(model), "marker": marker(model), "s": 20, "alpha": 0.6, "linewidth": 0}
            ax.scatter(own["characters"], own["score"], label=label(model), **look)
        # In words: the rank correlation over all models
        rho = on_side["characters"].corr(on_side["score"], method="spearman")
        parts.append(f"{side} prompts, all models: Spearman's correlation {number(rho)}")
        ax.set(title=f"{side.capitalize()} prompts", xlabel="characters")
    axes[0].set_ylabel("score")
    axes[1].legend(frameon=False, fontsize=9.5, labelcolor=QUIET)
    figure.alt = "Reward-model score against length of the 400 published responses. " + "; ".join(parts) + "."
    return figure


@styled
def published_losses(curves: dict) -> Picture:
    """The training loss of DPO and SFT+DPO as the authors logged it, means of tenths of the run, against ln 2.

    curves: block "loss_curves" of `published_figures.published()`, in nats.
    """
    figure, (ax,) = canvas(1, 1, width=7.2, height=3.4, title="The paper's DPO training loss")
    # The loss of a policy that equals its reference
    ax.axhline(LN_2, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
    ax.annotate("ln 2", (10.4, LN_2), (0, 4), textcoords="offset points", fontsize=10)
    parts = []
    for model in ("dpo", "sft_dpo"):
        tenths = curves[model]["tenths"]
        ax.plot(range(1, 11), tenths, color=colour(model), marker=marker(model), linewidth=2)
        ax.annotate(label(model), (1, tenths[0]), (0, 8), textcoords="offset points", color=colour(model))
        # In words
        above = sum(loss > LN_2 for loss in tenths)
        parts.append(f"{label(model)} from {tenths[0]} to {tenths[-1]}, {above} of 10 tenths above ln 2")
    ax.set(xlabel="tenth of the training", ylabel="mean loss", xticks=range(1, 11), xlim=(0.6, 10.9))
    figure.alt = "Mean training loss by tenths of the run: " + "; ".join(parts) + "."
    return figure


@styled
def puzzle(runs: pd.DataFrame) -> Picture:
    """Loss of every run of the DPO experiment, a row an arm: in training (dropout as set) and held out (without it).

    runs: `dpo_puzzle.summarise(table)`, a row a run; losses in nats.
    """
    # An arm is a combination of the four settings; its rows are its seeds
    arms = list(runs.sort_values(ARM, kind="stable").groupby(ARM, sort=False))
    names = []
    for (targets, rate, dropout, reference), _ in arms:
        names.append(f"{targets}, rate {rate:g}, dropout {dropout:g}, {reference}")
    figure, axes = canvas(1, 2, width=9.6, height=1.4 + 0.3 * len(arms), title="What moves the DPO loss", sharey=True)
    named_rows(axes[0], names, fontsize=9)
    # A panel a loss, a dot a run
    for ax, (column, title) in zip(axes, LOSSES, strict=True):
        ax.axvline(LN_2, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
        ax.set(title=title, xlabel="loss (dashed: ln 2)")
        for row, ((_, _, dropout, _), own) in enumerate(arms):
            tint = REJECTED if dropout else ACCENT
            ax.scatter(own[column], [row] * len(own), color=tint, s=26, alpha=0.8, linewidth=0)
    # In words
    parts = []
    for name, (_, own) in zip(names, arms, strict=True):
        parts.append(f"{name}: {own['train_loss'].mean():.3f} in training, {own['heldout_loss'].mean():.3f} held out")
    note(figure, "A dot is a seed. Red: OPT's dropout on. Green: off.")
    figure.alt = "DPO loss by arm, means over seeds. " + "; ".join(parts) + "."
    return figure


@styled
def arms(changes: pd.DataFrame, title: str, unit: str = "points of CAS") -> Picture:
    """Changes against a baseline, a row an arm, by the reward model and by the oracle.

    changes: rows of `experiments.changes(...)` of one metric, columns arm, by, value, low, high, in `unit`.
    """
    # A row an arm, in the order in which they first occur
    names = list(dict.fromkeys(changes["arm"]))
    figure, (ax,) = canvas(1, 1, width=8.2, height=1.3 + 0.5 * len(names), title=title)
    ax.axvline(0, color=INK, linewidth=1.2)
    named_rows(ax, names)
    ax.grid(axis="y", visible=False)
    # By the reward model a little above the row, by the oracle a little below
    parts = []
    for by, shift, tint, fill in (("reward model", -0.14, OTHERS[2], OTHERS[2]), ("oracle", 0.14, ACCENT, "white")):
        own = changes[changes["by"] == by].drop_duplicates("arm").set_index("arm")
        for row, name in enumerate(names):
            parts.append(f"{name} by the {by} {_change(ax, row + shift, own.loc[name], tint, fill)}")
    ax.set_xlabel(unit)
    note(figure, "Filled: by the reward model. Hollow: by the oracle. Line: 95 % interval over seeds and prompts.")
    figure.alt = f"{title}, {unit}: " + "; ".join(parts) + "."
    return figure


def _change(ax: Axes, row: float, change: pd.Series, tint: str, fill: str) -> str:
    """One change with its interval, drawn at the height `row`; returns it as "−1.2 [−3, 0.5]"."""
    low, value, high = change["low"], change["value"], change["high"]
    mark = {"marker": "o", "linestyle": "none", "markersize": 8, "markerfacecolor": fill}
    interval(ax, row, (low, value, high), tint, **mark)
    return f"{number(value, 1)} [{number(low, 1)}, {number(high, 1)}]"
