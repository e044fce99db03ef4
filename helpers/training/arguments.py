"""The TRL arguments that all trainings share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate.utils.memory import clear_device_cache
from transformers import TrainingArguments

from helpers.core import distributed
from helpers.core.quiet import quiet
from helpers.models.hardware import pick_device, wants_bfloat16
from helpers.training.memory import RowsAtOnce
from helpers.training.samplers import share

if TYPE_CHECKING:
    from helpers.core.settings import Settings


BATCH = 16  # rows a step where no setting says it: pre-training and the reward model


def checkpointing_field() -> str:
    """The field of transformers' TrainingArguments that turns activation checkpointing on or off.

    It is `activation_checkpointing` from transformers 5.23.0 on and was `gradient_checkpointing` before.
    """
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    return "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"


def training_arguments(
    config: type, settings: Settings, out: Path, *, epochs: float, rate: float, batch: int, accumulate: int = 1,
    fitting: RowsAtOnce = None, **more,
):  # fmt: skip
    """The TRL configuration shared by all trainings, `more` on top. What is not named here is TRL's default.

    A step takes batch * accumulate rows, however many processes share them and however few are on a device at once:
    all of a process's share, or as many as `fits` says.
    """
    distributed.refuse_alone("a training")
    clear_device_cache(garbage_collection=True)  # trainers hold themselves: the one before goes when it is looked for
    at_once, checkpointing = fitting or (settings.rows_at_once, settings.activation_checkpointing)
    per_device, accumulate = share(batch, accumulate, distributed.count(), at_once)
    shared = {
        "output_dir": str(out / "checkpoints"),
        "num_train_epochs": epochs,
        "learning_rate": rate,
        "per_device_train_batch_size": per_device,
        "per_device_eval_batch_size": 2 * batch,  # nothing is kept for a backward pass
        "gradient_accumulation_steps": accumulate,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.1,  # a share of all steps
        "max_grad_norm": 1.0,
        "seed": settings.seed,
        "use_cpu": pick_device(settings.device) != "cuda",
        "bf16": wants_bfloat16(settings),
        checkpointing_field(): checkpointing,
        "logging_nan_inf_filter": False,  # a loss that is not a number shall show
        "logging_strategy": "no",  # _Watch says when to log, evaluate and save
        "eval_strategy": "no",
        "save_strategy": "no",
        "save_total_limit": 1,
        "disable_tqdm": True,
        "report_to": "none",
        "log_level_replica": "error",  # of several processes the main one alone prints warnings
        "ddp_find_unused_parameters": False,  # every trained weight has a part in every loss
    }
    with quiet():
        made = config(**(shared | more))
    made._n_gpu = min(made.n_gpu, 1)  # a process has one GPU; more of them take more processes: see `launch`
    return made
