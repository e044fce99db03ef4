"""Prediction and measurement side by side, once a run is there."""

import pandas as pd

from helpers.core.methods import method_of, models_of
from helpers.core.text import GB
from helpers.models.hardware import PROCESS, precision_on, this_device
from helpers.pipeline.run import Run
from helpers.planning.plan import plan, shape_used
from helpers.planning.throughput import training_record

FEW = 20  # steps; fewer say little about speed
COLUMNS = ["stage", "memory_planned", "memory_measured", "seconds_planned", "seconds_measured", "device"]


def side_by_side(run: Run) -> pd.DataFrame:
    """Each finished training of a run: bytes and seconds as planned for this device, and as measured.

    Memory is planned for the longest row that there was. It is torch's own count on a GPU; on a CPU the whole
    process's, Python and its libraries too, whatever ran in it before. Returns columns COLUMNS, one row a training.
    """
    from helpers.pipeline import stages

    # What was measured, and the longest row of each training.
    timings, longest = {}, {}
    for name in models_of(run.settings)[1:]:
        if run.ready(name):
            timings[name] = stages.training_timing(run, name)
            longest[name] = stages.training_summary(run, name)["tokens_max"]
    # The plan for rows of that length.
    device = this_device(run.settings.device)
    planned = {stage.name: stage for stage in plan(run.settings, device, longest=longest).stages}
    outside = 0 if device.gpu else PROCESS
    rows = []
    for name, timing in timings.items():
        if timing:  # stages of an older course have none
            memory = planned[name].memory + outside, timing["peak_memory_gb"] * GB
            rows.append((name, *memory, planned[name].seconds, timing["seconds"], timing["device"]))
    return pd.DataFrame(rows, columns=COLUMNS)


def learned(run: Run) -> list[dict]:
    """The rates of a finished run's trainings on this device, for `throughput.keep_rates`: later plans use them."""
    from helpers.pipeline import stages

    s, device = run.settings, this_device(run.settings.device)
    shape, precision = shape_used(s, "policy"), precision_on(s, device)
    found = []
    for name in models_of(s)[1:]:
        method = method_of(name, s.preference_loss)
        if method.memory == "dpo, all logits":
            continue  # these trainers work at another rate than those that the planner knows
        # Only trainings that were done here, and long enough.
        timing = stages.training_timing(run, name) if run.ready(name) else {}
        if timing.get("steps", 0) > FEW and timing["device"] == device.name:
            found.append(training_record(s, method, shape, timing, precision))
    return found
