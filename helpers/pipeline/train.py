"""The trainings of a run without its notebooks, in one process or in several, on one machine or on many.

    accelerate launch --config_file helpers/training/accelerate_configs/ddp.yaml -m helpers train --profile paper

ddp.yaml: every process holds the whole model and takes a part of each step's rows, as accelerate deals them out.
fsdp.yaml: each holds a part of the model too. Where the rows of an epoch fill its last step, the losses are those of
one process within the error of floating-point sums; else accelerate takes some rows twice. ORPO's losses differed by up
to 0.3 % in a small trial, probably because its SFT term is a mean over the tokens of each batch. The number of
processes is among what a training is made from, so the notebooks take these trainings with
`python -m helpers run --accept-stale`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from helpers.core import distributed
from helpers.core.errors import SettingsError
from helpers.core.methods import model_names, models_of, nearest_model
from helpers.core.progress import Display
from helpers.core.settings import Settings, resolve
from helpers.models.hardware import pick_device
from helpers.pipeline.parameters import without_defaults
from helpers.pipeline.run import Run, open_run

STARTING_MODELS = {"base": "policy", "reward_model": "reward_model"}  # model -> the setting that may give one


def train(given: dict[str, Any], only: Sequence[str] = ()) -> Run:
    """Build the data of a run and train its models; in profile local also the base policy and the reward model.

    given: the parameters, checked before anything starts. only: names of the models to train, also several in one text
    with commas between; it may name a model that setting models does not. All processes call this alike; the main one
    prints. Returns the run. Raises SettingsError or DataError, one line, for what cannot be trained or shared.
    """
    # Everything that can be refused is refused before the processes wait for each other.
    given = without_defaults(given)
    settings = resolve(**given).settings
    steps = _steps(settings, only)
    _check_shares(settings)
    distributed.join(cpu=pick_device(settings.device) != "cuda")
    # Build one stage after the other.
    with _only_main_prints():
        run = open_run(**given)
        print()
        with Display(list(steps)) as display:
            for name, build in steps.items():
                with display.working(name):
                    build(run)
    distributed.leave()
    return run


def _steps(settings: Settings, only: Sequence[str]) -> dict[str, Callable[[Run], Any]]:
    """What to build, in order: the name of each step, and the function that builds it.

    Raises SettingsError for a name in `only` that is no model, or a model that this run takes as it is.
    """
    from helpers.pipeline import stages

    # Refuse names that are not known.
    wanted = [name for text in only for name in text.split(",")]
    usual = ["base", "reward_model", *models_of(settings)[1:]]
    for name in wanted:
        if name not in usual and name not in model_names():
            raise SettingsError(f"no training is called {name!r}{nearest_model(name)}")
    # Base and reward model are trained in profile local only, and only where none was given.
    taken = [name for name, setting in STARTING_MODELS.items() if not _is_trained(settings, setting)]
    for name in wanted:
        if name in taken:
            raise SettingsError(f"{name} is not trained here but taken as it is: only profile local trains its own")
    # The order is that of the run; models that only `only` names come last.
    steps: dict[str, Callable[[Run], Any]] = {"pairs": stages.pairs}
    for name in dict.fromkeys(usual + wanted):
        if name in wanted or (not wanted and name not in taken):
            steps[name] = stages.reward_model if name == "reward_model" else partial(_policy, name=name)
    return steps


def _is_trained(settings: Settings, setting: str) -> bool:
    """Whether a run trains the model that a setting, policy or reward_model, could give."""
    return settings.profile == "local" and getattr(settings, setting) is None


def _policy(run: Run, name: str) -> None:
    from helpers.pipeline import stages

    stages.policy(run, name)


def _check_shares(settings: Settings) -> None:
    """Raise SettingsError when the processes cannot share the rows of a step evenly."""
    from helpers.training.samplers import share

    for batch in (settings.sft_batch_size, settings.dpo_batch_size):
        share(batch, settings.gradient_accumulation, distributed.count(), settings.rows_at_once)


@contextlib.contextmanager
def _only_main_prints() -> Iterator[None]:
    """Inside, what the other processes print is thrown away."""
    if distributed.is_main():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
