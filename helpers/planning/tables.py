"""Plans and rehearsals as tables for the terminal."""

from collections.abc import Iterable

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from helpers.core.methods import model_title
from helpers.core.settings import Settings
from helpers.core.text import GB, duration, size
from helpers.models.hardware import precision_on
from helpers.planning.plan import Plan, Stage


def plan_table(plan: Plan, settings: Settings) -> Table:
    """One row a stage: memory at its peak, rows at once, tokens, time and disk; the last row is the whole run."""
    # Device and precision stand in the title; many cards have their memory in their name.
    memory = "" if "GB" in plan.device.name else f", {plan.device.memory / GB:.0f} GB"
    where = f"{plan.device.name}{memory}, {precision_on(settings, plan.device)}"
    table = _table("stage", "memory", "rows at once", "tokens", "time", "disk")
    table.title = f"{settings.profile}, {settings.recipe} recipe, on {where}"
    for stage in plan.stages:
        too_much = " (too much)" if stage.memory > plan.device.room else ""
        rows = str(stage.rows_at_once or "none fits") + (", checkpointing" if stage.checkpointing else "")
        tokens = f"{stage.tokens / 1e6:.1f} M"
        table.add_row(
            stage.name, size(stage.memory) + too_much, rows, tokens, duration(stage.seconds), size(stage.disk)
        )
    table.add_section()
    table.add_row("whole", "", "", "", duration(plan.seconds), size(plan.disk))
    return table


def remarks(plan: Plan) -> list[str]:
    """Sentences under the table: downloads, where the times come from, what to set by hand."""
    # What the stages say, together: stages by the source of their time, and settings to change.
    by_source: dict[str, list[str]] = {}
    change: dict[str, int] = {}
    for stage in plan.stages:
        by_source.setdefault(stage.source, []).append(stage.name)
        change |= stage.settings
    found = []
    if plan.download:
        found.append(f"download: {size(plan.download)}")
    for source, names in by_source.items():
        found.append(f"time of {', '.join(names)}: {source}")
    if change:
        found.append("to fit, set " + " ".join(f"-p {name}={value}" for name, value in change.items()))
    return found


def _table(*columns: str) -> Table:
    """Narrow enough for 80 columns; numbers to the right."""
    table = Table(box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    return table


def cards_table(plans: Iterable[Plan]) -> Table:
    """One row a card: memory and rows at once of each training, time of the whole."""
    plans = list(plans)
    # One column for all models that are trained by one method: they take the same memory.
    columns: dict[str, list[str]] = {}
    for stage in plans[0].stages:
        method = stage.name if stage.name == "evaluation" else stage.name.removeprefix("sft_")
        columns.setdefault(method, []).append(stage.name)
    heads = [", ".join(map(model_title, names)) for names in columns.values()]
    table = _table("card", *heads, "time")
    table.title = "On other cards: memory and rows at once"
    for plan in plans:
        stages = {stage.name: stage for stage in plan.stages}
        cells = [_short(stages[names[0]]) for names in columns.values()]
        table.add_row(plan.device.name, *cells, duration(plan.seconds))
    return table


def _short(stage: Stage) -> str:
    """Memory and rows at once of a stage in a cell."""
    if not stage.rows_at_once:
        return f"does not fit ({size(stage.memory)})"
    return f"{size(stage.memory)}, {stage.rows_at_once}" + (", checkpointing" if stage.checkpointing else "")


def rehearsal_table(rows: Iterable[dict]) -> Table:
    """One row a training of a rehearsal: speed, and memory as planned and as measured."""
    table = _table("training", "a step", "tokens/s", "FLOP/s", "of matrix", "at once", "memory", "planned")
    for row in rows:
        table.add_row(
            row["stage"],
            duration(row["seconds_a_step"]),
            f"{row['tokens_a_second']:,.0f}",
            f"{row['flops_a_second'] / 1e12:.3g} T",
            f"{row['share']:.0%}",
            str(row["rows_at_once"]),
            size(row["memory_measured"]),
            size(row["memory_planned"]),
        )
    return table


def compared_table(rows: pd.DataFrame) -> Table:
    """`compare.side_by_side` as a table: planned and measured memory and time of each training."""
    table = _table("stage", "memory planned", "measured", "time planned", "measured", "device")
    for row in rows.itertuples():
        memory = [size(row.memory_planned), size(row.memory_measured)]
        times = [duration(row.seconds_planned), duration(row.seconds_measured)]
        table.add_row(row.stage, *memory, *times, row.device)
    return table
