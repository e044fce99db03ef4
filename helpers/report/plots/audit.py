"""Figures of the audit. Each returns a Picture whose `alt` is computed from its data."""

from collections.abc import Mapping

import pandas as pd

from helpers.core.text import number
from helpers.report.plots.style import ACCENT, INK, OTHERS, QUIET, Picture, canvas, interval, named_rows, note, styled

FEWEST = 20  # rows marked: precision over fewer of them jumps too much to be drawn


@styled
def flaw_rates(report: pd.DataFrame) -> Picture:
    """Share of rows with each flaw, a panel a subset and split, with 95 % intervals.

    report: rows of `audit.report`, shares in percent.
    """
    # A panel a subset and split, a row a check
    groups = list(report.groupby(["subset", "split"], sort=False))
    checks = list(dict.fromkeys(report["check"]))
    size = {"width": 2.6 + 2.1 * len(groups), "height": 1.2 + 0.3 * len(checks)}
    figure, axes = canvas(1, len(groups), **size, title="Marked rows", sharey=True)
    named_rows(axes[0], [_in_words(check) for check in checks])
    parts = []
    for ax, ((subset, split), own) in zip(axes, groups, strict=True):
        ax.set(title=f"{subset}\n{split}", xlabel="% of rows", xlim=(0, 1.1 * max(0.5, report["high"].max())))
        ax.grid(axis="y", visible=False)
        for row, line in enumerate(own.itertuples()):
            mark = {"marker": "o", "linestyle": "none", "markersize": 6}
            interval(ax, row, (line.low, line.percent, line.high), ACCENT, **mark)
        # In words: the checks that mark any row
        named = []
        for line in own[own["rows"] > 0].itertuples():
            named.append(f"{_in_words(line.check)} {line.percent:.2f} %")
        parts.append(f"{subset} {split}: {', '.join(named) or 'nothing'}")
    note(figure, "Line: 95 % interval.")
    figure.alt = "Share of rows that the audit marks. " + "; ".join(parts) + "."
    return figure


def _in_words(check: str) -> str:
    """The name of a check as readers see it."""
    return check.replace("_", " ")


@styled
def precision_recall(curves: Mapping[str, pd.DataFrame], title: str = "Finding wrong labels") -> Picture:
    """Precision against recall of marking the rows whose label is least probable, a line a name.

    curves: name -> `audit.precision_recall(...)`, a row for each number of marked rows.
    """
    figure, (ax,) = canvas(1, 1, width=6.4, height=3.8, title=title)
    parts = []
    for position, (name, curve) in enumerate(curves.items()):
        shown, tint = curve.iloc[FEWEST - 1 :], OTHERS[position % len(OTHERS)]
        ax.plot(shown["recall"], shown["precision"], color=tint, linewidth=2, label=name)
        # Marking every row has the precision of marking rows at random
        chance = curve["precision"].iloc[-1]
        ax.axhline(chance, color=tint, linewidth=1, linestyle=(0, (4, 2)))
        # In words: the precision where half of the wrong labels are found
        half = curve.iloc[(curve["recall"] - 0.5).abs().argmin()]
        parts.append(f"{name}: at recall 0.5 precision {number(half['precision'])}, by chance {number(chance)}")
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    ax.legend(frameon=False, loc="upper right")
    note(figure, "Dashed: what marking rows at random would give.")
    figure.alt = "Precision and recall of marking the rows with the lowest P(label). " + "; ".join(parts) + "."
    return figure


@styled
def strengths(probability: pd.Series) -> Picture:
    """How sure a cross-fitted preference model is of each label: near 1/2 the pair is close, below it disagrees.

    probability: P(the label is right) of each pair, between 0 and 1.
    """
    figure, (ax,) = canvas(1, 1, width=6.4, height=3.0, title="How sure is the preference model of each label?")
    ax.hist(probability, bins=40, range=(0, 1), color=OTHERS[2], alpha=0.7)
    ax.axvline(0.5, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
    ax.set(xlabel="P(the label is right)", xlim=(0, 1), yticks=[])
    for place, verdict in ((0.25, "disagrees"), (0.75, "agrees")):
        ax.text(place, 0.92, verdict, transform=ax.transAxes, ha="center", color=QUIET)
    # In words
    close, against = ((probability - 0.5).abs() < 0.1).mean(), (probability < 0.5).mean()
    figure.alt = (
        f"Histogram of P(the label is right) over {len(probability):,} pairs: {close:.0%} between 0.4 and 0.6, "
        f"{against:.0%} below 0.5."
    )
    return figure


@styled
def scaling(measured: pd.DataFrame) -> Picture:
    """Cost of a row over the size of the collection: columns rows, microseconds_a_row, peak_mib."""
    figure, axes = canvas(1, 2, width=7.6, height=3.0, title="What the audit costs")
    for ax, column, name in zip(axes, ("microseconds_a_row", "peak_mib"), ("µs a row", "memory, MiB"), strict=True):
        ax.plot(measured["rows"], measured[column], "o-", color=ACCENT)
        ax.set(xlabel="rows", ylabel=name, xscale="log", ylim=(0, 1.15 * measured[column].max()))
    costs = [f"{r.rows:,} rows {r.microseconds_a_row} µs a row, {r.peak_mib} MiB" for r in measured.itertuples()]
    figure.alt = "Cost of the audit. " + "; ".join(costs) + "."
    return figure
