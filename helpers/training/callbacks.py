"""What watches a training: when to log, evaluate and save, and when to stop because something is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers import TrainerCallback

from helpers.core import distributed
from helpers.core.errors import CourseError
from helpers.models.generation import generate

LOGGED, EVALUATED, SAVED = 50, 4, 4  # rows in the log, looks at held-out data, checkpoints: about, per training
Progress = Callable[[int, int], None]  # hears (steps done, steps in all)
SAMPLED = 24  # held-out prompts that are answered at each look


class Start(NamedTuple):
    """The loss with which a training must begin: its name, value and how far it may be missed, and what to blame."""

    training: str
    name: str
    loss: float
    near: float
    cause: str


class TrainingWatch(TrainerCallback):
    """Says when to log, evaluate and save; answers held-out prompts; stops a training that went wrong."""

    def __init__(self, trainer, settings, order, prompts, progress, starts_at: Start | None) -> None:
        self.trainer, self.settings, self.order, self.progress = trainer, settings, order, progress
        self.prompts, self.starts_at = list(prompts)[:SAMPLED], starts_at

    def on_train_begin(self, args, state, control, **_) -> None:
        if distributed.index():  # else all processes would drop the same units in dropout
            torch.manual_seed(args.seed + distributed.index())
        if state.global_step == 0:
            self.trainer.evaluate()

    def on_epoch_begin(self, args, state, control, **_) -> None:
        # Accelerate says the epoch too, but not where several processes go on in the middle of one: there its loader
        # skips batches of a shard, and the sampler below these two hears nothing.
        self.order.set_epoch(int(state.epoch))

    def on_step_end(self, args, state, control, **_) -> None:
        step, last = state.global_step, state.max_steps
        control.should_evaluate = step in _marks(last, EVALUATED)
        control.should_save = step < last and step in _marks(last, SAVED + 1)
        # A checkpoint holds no half-filled averages, so each one comes right after a log row.
        due = step == 1 or step == last or step % max(1, last // LOGGED) == 0
        control.should_log = due or control.should_evaluate or control.should_save
        if self.progress:
            self.progress(step, last)

    def on_log(self, args, state, control, logs=None, **_) -> None:
        loss = logs.get("loss", logs.get("eval_loss", 0.0))
        if not math.isfinite(loss):
            raise CourseError(f"the loss is {loss} at step {state.global_step}: lower the learning rate and run again")
        first = ("eval_loss" in logs and state.global_step == 0) or ("loss" in logs and state.global_step == 1)
        expected = self.starts_at
        if first and expected and abs(loss - expected.loss) > expected.near:
            raise CourseError(
                f"{expected.training} starts at loss {loss:.4f} instead of {expected.name} = {expected.loss:.4f}: "
                f"{expected.cause}"
            )

    def on_evaluate(self, args, state, control, model=None, **_) -> None:
        if self.prompts:  # in every process all of them: one batch, and nobody waits for another one's answers
            answers = generate(
                (model, self.trainer.processing_class),
                self.prompts,
                max_new_tokens=self.settings.max_new_tokens,
                batch_size=self.settings.generation_batch_size,
            )
            state.log_history[-1] |= {
                "generated_length": float(answers["tokens"].mean()),
                "eos_rate": float(answers["ended"].mean()),
            }


def _marks(steps: int, parts: int) -> list[int]:
    """The last step of each of `parts` equal parts."""
    return [math.ceil(steps * part / parts) for part in range(1, parts + 1)]
