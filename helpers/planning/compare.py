"""Prediction and measurement side by side, once a run is there."""

import pandas as pd

from ..runs import Run
from .plan import plan
from .rates import this_device
from .units import GB

COLUMNS = ["stage", "memory_planned", "memory_measured", "seconds_planned", "seconds_measured", "device"]


def side_by_side(run: Run) -> pd.DataFrame:
    """Each training of a run that is finished: bytes and seconds as planned for this device, and as measured.

    Measured memory is torch's own count on a GPU. On a CPU it is the whole process's, whatever ran in it before.
    """
    from .. import stages

    device = this_device(run.settings.device)
    planned = {stage.name: stage for stage in plan(run.settings, device).stages}
    rows = []
    for name in (name for name in stages.STARTS_FROM if run.ready(name)):
        timing, stage = stages.training_timing(run, name), planned[name]
        if timing:
            measured = timing["peak_memory_gb"] * GB, timing["seconds"]
            rows.append((name, stage.memory, measured[0], stage.seconds, measured[1], timing["device"]))
    return pd.DataFrame(rows, columns=COLUMNS)
