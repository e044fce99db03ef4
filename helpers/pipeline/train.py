"""The trainings of a run without its notebooks, in one process or in several, on one machine or on many.

    accelerate launch --config_file helpers/training/accelerate_configs/ddp.yaml -m helpers train --profile paper

ddp.yaml: every process holds the whole model and takes a part of each step's rows, as accelerate deals them out.
fsdp.yaml: each holds a part of the model too. Where the rows of an epoch fill its last step, the losses are those of
one process within the error of floating-point sums; else accelerate takes some rows twice. The number of processes is
among what a training is made from, so the notebooks take these trainings with `python -m helpers run --accept-stale`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from helpers.core import distributed
from helpers.core.errors import SettingsError
from helpers.core.methods import method_of, model_names, models_of, nearest_model
from helpers.core.progress import Display
from helpers.core.settings import Settings, resolve
from helpers.models.hardware import pick_device
from helpers.pipeline.parameters import without_defaults
from helpers.pipeline.run import Run, open_run


def train(given: dict[str, Any], only: Sequence[str] = ()) -> Run:
    """Build the data of a run and its trainings, or `only` some of them; base and reward_model in profile local.

    `only` may also name a model that setting models does not.

    given: the parameters, checked before anything starts. Called by all processes alike; the main one prints.
    Raises SettingsError or DataError, one line, for what cannot be trained or shared.
    """
    given = without_defaults(given)
    settings = resolve(**given).settings
    steps = _steps(settings, only)
    _check_shares(settings, list(steps))
    distributed.join(cpu=pick_device(settings.device) != "cuda")
    with _main_speaks():
        run = open_run(**given)
        print()
        with Display(list(steps)) as display:
            for name, build in steps.items():
                with display.working(name):
                    build(run)
    distributed.leave()
    return run


def _steps(settings: Settings, only: Sequence[str]) -> dict[str, Callable[[Run], Any]]:
    """What to build, in order, by name."""
    from helpers.pipeline import stages

    wanted = [name for text in only for name in text.split(",")]
    usual = ("base", "reward_model", *models_of(settings)[1:])
    if unknown := [name for name in wanted if name not in {*usual, *model_names()}]:
        raise SettingsError(f"no training is called {unknown[0]!r}{nearest_model(unknown[0])}")
    elsewhere = [
        name for name, own in (("base", "policy"), ("reward_model", "reward_model")) if not _trained(settings, own)
    ]
    if idle := [name for name in wanted if name in elsewhere]:
        raise SettingsError(f"{idle[0]} is not trained here but taken as it is: only profile local trains its own")
    names = dict.fromkeys([*usual, *wanted])
    chosen = [name for name in names if (name in wanted if wanted else name not in elsewhere)]
    own = {"reward_model": stages.reward_model}
    return {"pairs": stages.pairs} | {name: own.get(name) or partial(_policy, name=name) for name in chosen}


def _trained(settings: Settings, model: str) -> bool:
    return settings.profile == "local" and getattr(settings, model) is None


def _policy(run: Run, name: str) -> None:
    from helpers.pipeline import stages

    stages.policy(run, name)


def _check_shares(settings: Settings, steps: Sequence[str]) -> None:
    """Raise SettingsError when the processes cannot share the rows of a step evenly, or a training not at all."""
    from helpers.training.samplers import share

    for batch in (settings.sft_batch_size, settings.dpo_batch_size):
        share(batch, settings.gradient_accumulation, distributed.count(), settings.rows_at_once)
    trained = [name for name in steps if name in model_names()[1:]]
    alone = [name for name in trained if method_of(name, settings.preference_loss).memory == "dpo, all logits"]
    if distributed.count() > 1 and alone:
        raise SettingsError(
            f"{alone[0]} is trained by one process only (TRL's trainer for it is experimental): leave it out with "
            "--only, and train it without accelerate"
        )


@contextlib.contextmanager
def _main_speaks() -> Iterator[None]:
    """Let the main process alone print."""
    with contextlib.ExitStack() as stack:
        if not distributed.is_main():
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield
