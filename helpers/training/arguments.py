"""The arguments of TRL's trainers that all trainings share: optimiser schedule, batch, precision, logging."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate.utils.memory import clear_device_cache
from transformers import TrainingArguments

from helpers.core import distributed
from helpers.core.quiet import quiet
from helpers.models.hardware import pick_device, wants_bfloat16
from helpers.training.memory import OnDevice
from helpers.training.samplers import share

if TYPE_CHECKING:
    from helpers.core.settings import Settings


BATCH = 16  # rows in a training step of pre-training and of the reward model; SFT and DPO have settings for it


def checkpointing_field() -> str:
    """The field of transformers' TrainingArguments that turns activation checkpointing on or off.

    It is `activation_checkpointing` from transformers 5.23.0 on and was `gradient_checkpointing` before.
    """
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    return "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"


def training_arguments(
    config: type, settings: Settings, out: Path, *, epochs: float, rate: float, batch: int, accumulate: int = 1,
    on_device: OnDevice | None = None, **more,
):  # fmt: skip
    """A config of TRL: what all trainings share, and `more` on top. What is not named here keeps TRL's default.

    config: TRL's class, such as trl.DPOConfig. settings: device, precision and seed are used. out: the folder in which
    checkpoints/ is written. epochs: passes over the rows. rate: the highest learning rate, after the warm-up.
    batch, accumulate: a training step takes batch * accumulate rows, however many processes share them and however few
    of them are on a device at once. on_device: what `memory.rows_for_this_device` found; None: what the settings
    rows_at_once and activation_checkpointing say. more: arguments of that class by name.
    """
    distributed.refuse_alone("a training")
    # Trainers refer to themselves, so that only a garbage collection frees the memory of the one before.
    clear_device_cache(garbage_collection=True)
    # Divide the rows of a step among processes, and these into batches that the device can hold.
    on_device = on_device or OnDevice(settings.rows_at_once, settings.activation_checkpointing)
    per_device, accumulate = share(batch, accumulate, distributed.count(), on_device.rows)
    shared = {
        # Optimisation: AdamW is TRL's default; the rate rises over a tenth of all steps, then falls to 0.
        "output_dir": str(out / "checkpoints"),
        "num_train_epochs": epochs,
        "learning_rate": rate,
        "per_device_train_batch_size": per_device,
        "per_device_eval_batch_size": 2 * batch,  # an evaluation keeps nothing for a backward pass
        "gradient_accumulation_steps": accumulate,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.1,  # below 1: a share of all steps
        "max_grad_norm": 1.0,
        "seed": settings.seed,
        # Device, precision, memory.
        "use_cpu": pick_device(settings.device) != "cuda",
        "bf16": wants_bfloat16(settings),
        checkpointing_field(): on_device.checkpointing,
        # `callbacks.TrainingWatch` decides when to log, evaluate and save.
        "logging_strategy": "no",
        "eval_strategy": "no",
        "save_strategy": "no",
        "save_total_limit": 1,
        "logging_nan_inf_filter": False,  # a loss that is not a number must appear in the log
        "disable_tqdm": True,
        "report_to": "none",
        # Several processes: only the main one prints warnings; every trained weight gets a gradient in every step.
        "log_level_replica": "error",
        "ddp_find_unused_parameters": False,
    }
    with quiet():
        made = config(**{**shared, **more})
    # One GPU for each process. To use several GPUs, start several processes: see `core.distributed`.
    made._n_gpu = min(made.n_gpu, 1)
    return made
