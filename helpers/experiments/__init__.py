"""Experiments that take hours: many trainings, whose tables of figures are kept under data_cache/experiments/.

catalogue: which experiments there are, and the runs of each; run_one: one run done and measured; sweep: all runs of an
experiment; cluster: the same as jobs of a cluster; tables: the tables read and summarised; dpo_puzzle: what that
experiment was expected to show, and what it shows. A table holds figures only. Finished trainings are kept in results/,
so that a sweep that was stopped goes on where it was.
"""

from helpers.experiments import dpo_puzzle
from helpers.experiments.catalogue import FAULTS, PROMPTS_A_SIDE, SEEDS, Job, experiments, jobs
from helpers.experiments.run_one import HELD_OUT, first_steps, measure
from helpers.experiments.sweep import plan, run
from helpers.experiments.tables import (
    COLUMNS,
    MEASURED_BY,
    TABLES,
    changes,
    differences,
    load,
    rates,
    record,
    rows_of,
    there,
)

__all__ = [
    "COLUMNS",
    "FAULTS",
    "HELD_OUT",
    "MEASURED_BY",
    "PROMPTS_A_SIDE",
    "SEEDS",
    "TABLES",
    "Job",
    "changes",
    "differences",
    "dpo_puzzle",
    "experiments",
    "first_steps",
    "jobs",
    "load",
    "measure",
    "plan",
    "rates",
    "record",
    "rows_of",
    "run",
    "there",
]
