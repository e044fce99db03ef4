"""The callback of every training: it decides when to log, evaluate and save, and stops a training that goes wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers import TrainerCallback

from helpers.core import distributed
from helpers.core.errors import CourseError
from helpers.models.generation import generate

if TYPE_CHECKING:
    from torch.utils.data import Sampler

    from helpers.core.settings import Settings

# In a training: about so many rows in the log, evaluations on held-out rows after the first one, checkpoints.
LOGGED, EVALUATED, SAVED = 50, 4, 4
ANSWERED = 24  # held-out prompts that the policy answers at each evaluation
Progress = Callable[[int, int], None]  # called with (steps done, steps in all)


class FirstLoss(NamedTuple):
    """The loss that a training must have before its first step.

    training: its name in messages. name, loss: the value as a formula and as a number. tolerance: how far the loss may
    be from it. cause: what is wrong where it is further away.
    """

    training: str
    name: str
    loss: float
    tolerance: float
    cause: str


class TrainingWatch(TrainerCallback):
    """Decides when to log, evaluate and save; answers held-out prompts; stops a training whose loss is wrong.

    trainer: TRL's. settings: lengths and batches of generation. order: the sampler of the rows. prompts: held-out ones;
    the first few are answered at each evaluation. progress: called after each step, or None. starts_at: the loss
    before the first step, or None.
    """

    def __init__(
        self,
        trainer,
        settings: Settings,
        order: Sampler,
        prompts: Sequence[str],
        progress: Progress | None,
        starts_at: FirstLoss | None,
    ) -> None:
        self.trainer, self.settings, self.order = trainer, settings, order
        self.prompts, self.progress, self.starts_at = list(prompts)[:ANSWERED], progress, starts_at

    def on_train_begin(self, args, state, control, **_) -> None:
        # With one seed for all, dropout would drop the same units in every process.
        if distributed.index():
            torch.manual_seed(args.seed + distributed.index())
        # Evaluate once before the first step.
        if state.global_step == 0:
            self.trainer.evaluate()

    def on_epoch_begin(self, args, state, control, **_) -> None:
        # Accelerate tells the sampler too, but not where several processes go on in the middle of an epoch.
        self.order.set_epoch(int(state.epoch))

    def on_step_end(self, args, state, control, **_) -> None:
        step, last = state.global_step, state.max_steps
        control.should_evaluate = step in _marks(last, EVALUATED)
        control.should_save = step < last and step in _marks(last, SAVED + 1)
        # Log at every checkpoint: it does not hold the losses since the last row of the log, whose mean is the next.
        due = step == 1 or step == last or step % max(1, last // LOGGED) == 0
        control.should_log = due or control.should_evaluate or control.should_save
        if self.progress:
            self.progress(step, last)

    def on_log(self, args, state, control, logs=None, **_) -> None:
        # The loss must be a number.
        loss = logs.get("loss", logs.get("eval_loss", 0.0))
        if not math.isfinite(loss):
            raise CourseError(f"the loss is {loss} at step {state.global_step}: lower the learning rate and run again")
        # The first loss, on held-out rows before the first step and on training rows in it, must be the expected one.
        first = ("eval_loss" in logs and state.global_step == 0) or ("loss" in logs and state.global_step == 1)
        expected = self.starts_at
        if first and expected and abs(loss - expected.loss) > expected.tolerance:
            raise CourseError(
                f"{expected.training} starts at loss {loss:.4f} instead of {expected.name} = {expected.loss:.4f}: "
                f"{expected.cause}"
            )

    def on_evaluate(self, args, state, control, model=None, **_) -> None:
        if not self.prompts:
            return
        # Every process answers all prompts: they are few, and so no process waits for another one.
        answers = generate(
            (model, self.trainer.processing_class),
            self.prompts,
            max_new_tokens=self.settings.max_new_tokens,
            batch_size=self.settings.generation_batch_size,
        )
        # Into the row of the log that this evaluation has just written.
        evaluated = state.log_history[-1]
        evaluated["generated_length"] = float(answers["tokens"].mean())
        evaluated["eos_rate"] = float(answers["ended"].mean())


def _marks(steps: int, parts: int) -> list[int]:
    """The last step of each part where a training of so many steps is divided into equal parts."""
    return [math.ceil(steps * part / parts) for part in range(1, parts + 1)]
