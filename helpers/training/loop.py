"""The training loop that SFT, DPO, pre-training and the reward model share, and the files that it leaves.

A training goes on from its last checkpoint. On a CPU it then gives the same bytes as an undisturbed one: a checkpoint
is written right after a row of the log and after the evaluation on held-out rows, and the order of the rows depends on
seed and epoch alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from accelerate.data_loader import SeedableRandomSampler
from transformers import PrinterCallback

from helpers.core import distributed
from helpers.core.errors import CourseError
from helpers.core.files import write_json
from helpers.core.quiet import quiet
from helpers.training import checkpoints
from helpers.training.arguments import checkpointing_field
from helpers.training.callbacks import FirstLoss, Progress, TrainingWatch
from helpers.training.samplers import LengthGroups
from helpers.training.stopwatch import Stopwatch

if TYPE_CHECKING:
    from torch.utils.data import Sampler
    from transformers import PreTrainedTokenizerBase

    from helpers.core.settings import Settings

# What a training logs, as TRL and transformers name it; the columns of log.csv in this order.
MEASURED = ["loss", "grad_norm", "learning_rate"]
MEASURED += [f"rewards/{what}" for what in ("chosen", "rejected", "margins", "accuracies")]
MEASURED += ["logps/chosen", "logps/rejected", "entropy", "mean_token_accuracy", "accuracy", "margin"]
MEASURED += ["generated_length", "eos_rate"]


def train(
    trainer,
    settings: Settings,
    lengths: Sequence[int],
    *,
    prompts: Sequence[str] = (),
    starts_at: FirstLoss | None = None,
    progress: Progress | None = None,
    sequences: Sequence[int] = (),
) -> None:
    """Train from the beginning or from the last whole checkpoint, and write timing.json.

    trainer: one of TRL's, with its rows as token ids. settings: decide the order of the rows and what is generated.
    lengths: tokens of each training row, of its longer sequence where it has two. sequences: tokens of every sequence,
    where a row has two; () for `lengths`. prompts: held-out ones; the policy answers some of them at each evaluation.
    starts_at: the loss that must be seen before the first step; None: any. progress: called with (steps done, steps in
    all). Raises CourseError when the loss is not finite, starts elsewhere, or the GPU's memory is too small.
    """
    # The order of the rows.
    order = _row_order(trainer, settings, lengths)
    trainer._get_train_sampler = lambda *_: order
    # The callback that decides about evaluations and checkpoints comes first: the stopwatch stops for them.
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(TrainingWatch(trainer, settings, order, prompts, progress, starts_at))
    stopwatch = Stopwatch()
    trainer.add_callback(stopwatch)
    # Forward pass, loss, backward pass, optimiser step, again and again: transformers' Trainer does it.
    try:
        trainer.train(resume_from_checkpoint=checkpoints.last_checkpoint(Path(trainer.args.output_dir)))
    except torch.OutOfMemoryError:
        raise _memory_too_small(trainer.args) from None
    if distributed.is_main():
        _write_timing(trainer, stopwatch, sequences or lengths)


def _row_order(trainer, settings: Settings, lengths: Sequence[int]) -> Sampler:
    """Rows of like length together in the recommended recipe; else the random order that accelerate would make."""
    if settings.recipe != "recommended":
        return SeedableRandomSampler(trainer.train_dataset, data_seed=settings.seed)
    args = trainer.args
    rows_a_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * distributed.count()
    return LengthGroups(lengths, rows_a_step, settings.seed)


def _memory_too_small(args) -> CourseError:
    at_once = args.per_device_train_batch_size
    other_way = "" if getattr(args, checkpointing_field()) else " or -p activation_checkpointing=True"
    return CourseError(
        f"the GPU's memory is too small for {at_once} rows at once: run again with -p rows_at_once="
        f"{max(1, at_once // 2)}{other_way}"
    )


def _write_timing(trainer, stopwatch: Stopwatch, lengths: Sequence[int]) -> None:
    """Write timing.json. lengths: tokens of every sequence; of one that is too long, max_length are counted."""
    args = trainer.args
    tokens = [min(length, args.max_length) for length in lengths]
    tokens_a_step = args.num_train_epochs * sum(tokens) / trainer.state.max_steps
    timing = stopwatch.timing(tokens_a_step, sum(tokens) / len(tokens))
    write_json(Path(args.output_dir).parent / "timing.json", timing)


def save_trained(trainer, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Write the trained weights, of a model or of an adapter, as safetensors; the main process does it for all.

    trainer: after its training. folder: to write. tokenizer: written beside the weights; None for an adapter.
    """
    model, weights = trainer.model, {}
    # With FSDP each process holds a part of the weights: all processes together put the whole ones together.
    if trainer.is_fsdp_enabled:
        whole = trainer.accelerator.get_state_dict(model)
        # Of two tied weights (embedding and output head) save_pretrained writes one, and tells by their memory.
        for copy, name in model.all_tied_weights_keys.items():
            if copy in whole:
                whole[copy] = whole[name]
        weights = {"state_dict": whole}
    if not distributed.is_main():
        return
    with quiet():
        model.save_pretrained(folder, **weights)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)


def write_log(trainer, out: Path, counts: dict[str, Any]) -> None:
    """Write log.csv and summary.json, in the main process.

    trainer: after its training. out: the folder. counts: what `rows.check_rows` returned; it opens summary.json.
    log.csv has a row for each time that the trainer logged, split "train", or evaluated, split "heldout".
    """
    if not distributed.is_main():
        return
    log = _log_table(trainer.state.log_history)
    log.to_csv(out / "log.csv", index=False)
    # The summary: counts, then the first and the last loss of each split.
    training_losses = log.loc[log["split"] == "train", "loss"].tolist()
    heldout_losses = log.loc[log["split"] == "heldout", "loss"].tolist()
    summary = {
        **counts,
        "steps": trainer.state.global_step,
        "first_loss": training_losses[0],
        "last_loss": training_losses[-1],
        "heldout_first_loss": heldout_losses[0],
        "heldout_last_loss": heldout_losses[-1],
    }
    write_json(out / "summary.json", summary)


def _log_table(log_history: list[dict[str, Any]]) -> pd.DataFrame:
    """The trainer's log as a table; a value of an evaluation stands in the column of the training's value."""
    rows = []
    for event in log_history:
        row = {name.removeprefix("eval_").replace("/", "_"): value for name, value in event.items()}
        row["split"] = "train" if "loss" in event else "heldout"
        # The last event of a training gives its run time; it has no entry "loss".
        if "loss" in row:
            rows.append(row)
    columns = ["step", "epoch", "split", *(name.replace("/", "_") for name in MEASURED)]
    return pd.DataFrame(rows).reindex(columns=columns).dropna(axis="columns", how="all")
