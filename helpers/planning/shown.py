"""Plans and rehearsals as tables for the terminal."""

from collections.abc import Iterable

import pandas as pd
from rich.table import Table

from ..settings import Settings
from .plan import Plan, Stage, precision_on
from .units import GB, duration, size


def plan_table(plan: Plan, settings: Settings) -> Table:
    """One row a stage: memory at its peak, rows at once, tokens, time, disk, and what to change for it to fit."""
    precision = precision_on(settings, plan.device)
    title = (
        f"{settings.profile}, {settings.recipe}, on {plan.device.name} ({plan.device.memory / GB:.0f} GB), {precision}"
    )
    table = Table("stage", "memory", "rows at once", "tokens", "time", "disk", "set", title=title, title_justify="left")
    for stage in plan.stages:
        table.add_row(*_cells(stage, plan))
    table.add_section()
    download = f"download {size(plan.download)}" if plan.download else ""
    table.add_row("whole", "", "", "", duration(plan.seconds), size(plan.disk), download)
    return table


def _cells(stage: Stage, plan: Plan) -> list[str]:
    too_much = stage.rows_at_once == 0 or stage.memory > plan.device.room
    rows = str(stage.rows_at_once or "none fits") + (", checkpointing" if stage.checkpointing else "")
    return [
        stage.name,
        size(stage.memory) + (" (too much)" if too_much else ""),
        rows,
        f"{stage.tokens / 1e6:.1f} M",
        duration(stage.seconds),
        size(stage.disk),
        " ".join(f"-p {name}={value}" for name, value in stage.settings.items()),
    ]


def sources(plan: Plan) -> str:
    """Where the times come from, in one sentence."""
    found = {stage.source: None for stage in plan.stages}
    return "time: " + "; ".join(
        f"{', '.join(s.name for s in plan.stages if s.source == source)} by a rate that is {source}" for source in found
    )


def cards_table(plans: Iterable[Plan]) -> Table:
    """One row a card: rows at once and memory of each training, time of the whole."""
    table = Table("card", "SFT", "DPO, SFT+DPO", "evaluation", "whole", title="On other cards", title_justify="left")
    for plan in plans:
        sft, dpo, _, evaluation = plan.stages
        table.add_row(plan.device.name, *map(_short, (sft, dpo, evaluation)), duration(plan.seconds))
    return table


def _short(stage: Stage) -> str:
    if not stage.rows_at_once:
        return f"does not fit ({size(stage.memory)})"
    return f"{size(stage.memory)}, {stage.rows_at_once} at once" + (", checkpointing" if stage.checkpointing else "")


def compared_table(rows: pd.DataFrame) -> Table:
    """`compare.side_by_side` as a table: planned and measured memory and time of each training."""
    table = Table("stage", "memory planned", "measured", "time planned", "measured", "device")
    for row in rows.itertuples():
        times = [duration(row.seconds_planned), duration(row.seconds_measured)]
        cells = [size(row.memory_planned), size(row.memory_measured), *times]
        table.add_row(row.stage, *cells, row.device)
    return table
