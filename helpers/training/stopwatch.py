"""What a training takes: seconds, tokens a second and memory, written beside its result as timing.json.

Apart from summary.json, because equal trainings have equal summaries and never take equally long.
"""

import time
from typing import Any

import torch
from transformers import TrainerCallback

from helpers.core import distributed
from helpers.models.hardware import peak_memory

WARM_UP = 10  # a training of so many steps has a first one that does not count: memory is laid out, kernels are chosen


class Stopwatch(TrainerCallback):
    """Times the steps of a training, with all that they wait for, without looks at held-out data and checkpoints.

    It comes after the callback that decides about those. A GPU works on while Python is ahead, so it is waited for
    wherever the clock is read; between two steps it is not.
    """

    def __init__(self) -> None:
        self.began: float | None = None
        self.stepping, self.steps, self.warm = 0.0, 0, False
        self.start = time.perf_counter()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_step_begin(self, args, state, control, **_) -> None:
        self.began = self.began or time.perf_counter()

    def on_step_end(self, args, state, control, **_) -> None:
        self.steps += 1
        first = not self.warm and state.max_steps >= WARM_UP
        self.warm = True
        if first or control.should_evaluate or control.should_save or state.global_step == state.max_steps:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.stepping += time.perf_counter() - self.began
            self.began = None
        if first:
            self.stepping, self.steps = 0.0, 0

    def read(self, tokens_a_step: float, tokens_a_sequence: float) -> dict[str, Any]:
        """Everything since the training began or went on. Tokens: real ones, without padding.

        `seconds` is all of it; a step's are those of the steps alone. peak_memory_gb: what torch took on a GPU, else
        the whole process; of several processes the main one.
        """
        on_gpu = torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0
        device = torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads"
        a_step = self.stepping / max(self.steps, 1)
        return {
            "seconds": round(time.perf_counter() - self.start, 2),
            "steps": self.steps,
            "seconds_a_step": round(a_step, 4),
            "tokens_a_second": round(tokens_a_step / max(a_step, 1e-9), 1),
            "tokens_a_sequence": round(tokens_a_sequence, 1),
            "peak_memory_gb": round((torch.cuda.max_memory_allocated() if on_gpu else peak_memory()) / 1e9, 3),
            "device": device if distributed.count() == 1 else f"{distributed.count()} x {device}",
        }
