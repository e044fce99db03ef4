"""What a training takes: seconds, tokens a second and memory, for timing.json.

It is a file apart from summary.json: equal trainings have equal summaries, and take different times.
"""

import time
from typing import Any

import torch
from transformers import TrainerCallback

from helpers.core import distributed
from helpers.models.hardware import peak_memory

WARM_UP = 10  # in a training of so many steps or more the first is left out: it allocates memory and chooses kernels


class Stopwatch(TrainerCallback):
    """Measures the time of the training steps, without the evaluations and checkpoints between them.

    The clock runs from the beginning of a step to the next evaluation, checkpoint or end of the training. Add this
    callback after `callbacks.TrainingWatch`, which decides about evaluations and checkpoints.
    """

    def __init__(self) -> None:
        self.began: float | None = None  # when the clock was started; None while it stands
        self.stepping = 0.0  # seconds of training steps so far
        self.steps, self.warm = 0, False
        self.start = time.perf_counter()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_step_begin(self, args, state, control, **_) -> None:
        self.began = self.began or time.perf_counter()

    def on_step_end(self, args, state, control, **_) -> None:
        self.steps += 1
        # Whether this is the first step of a training that is long enough to leave it out.
        first = not self.warm and state.max_steps >= WARM_UP
        self.warm = True
        # Stop the clock before an evaluation or a checkpoint. A GPU may still be at work: wait for it.
        if first or control.should_evaluate or control.should_save or state.global_step == state.max_steps:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.stepping += time.perf_counter() - self.began
            self.began = None
        # Begin to count after the first step.
        if first:
            self.stepping, self.steps = 0.0, 0

    def timing(self, tokens_a_step: float, tokens_a_sequence: float) -> dict[str, Any]:
        """The content of timing.json, for the time since the training was begun or gone on with.

        tokens_a_step, tokens_a_sequence: means, without padding. Returns seconds (evaluations and checkpoints
        included), steps, seconds_a_step and tokens_a_second (both of the steps alone), tokens_a_sequence,
        peak_memory_gb (on a GPU what torch allocated, else of the whole process; of several processes the main one),
        and the device's name.
        """
        on_gpu = torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0
        device = torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads"
        peak = torch.cuda.max_memory_allocated() if on_gpu else peak_memory()
        a_step = self.stepping / max(self.steps, 1)
        return {
            "seconds": round(time.perf_counter() - self.start, 2),
            "steps": self.steps,
            "seconds_a_step": round(a_step, 4),
            "tokens_a_second": round(tokens_a_step / max(a_step, 1e-9), 1),
            "tokens_a_sequence": round(tokens_a_sequence, 1),
            "peak_memory_gb": round(peak / 1e9, 3),
            "device": device if distributed.count() == 1 else f"{distributed.count()} x {device}",
        }
