"""One training from its first or its last saved step to the end, and the files that it leaves.

On a CPU a resumed training gives the same bytes as an undisturbed one: checkpoints fall on logging steps, after the
evaluation on held-out data, and the order of the rows depends on seed and epoch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from helpers.training.callbacks import Start, TrainingWatch
from helpers.training.samplers import LengthGroups
from helpers.training.stopwatch import Stopwatch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from helpers.core.settings import Settings


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
    starts_at: Start | None = None,
    progress: Callable[[int, int], None] | None = None,
    sequences: Sequence[int] = (),
) -> None:
    """Train, from the last whole checkpoint if there is one, and write timing.json.

    lengths: tokens of each row, of its longest sequence. sequences: tokens of every sequence, where a row has several.
    starts_at: what the first losses must be (None: they may be anything).
    """
    args = trainer.args
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * distributed.count()
    if settings.recipe == "recommended":
        order = LengthGroups(lengths, rows, settings.seed)
    else:
        order = SeedableRandomSampler(trainer.train_dataset, data_seed=settings.seed)  # what accelerate would make
    trainer._get_train_sampler = lambda *_: order
    trainer.remove_callback(PrinterCallback)
    watch, stopwatch = TrainingWatch(trainer, settings, order, prompts, progress, starts_at), Stopwatch()
    trainer.add_callback(watch)
    trainer.add_callback(stopwatch)
    try:
        trainer.train(resume_from_checkpoint=checkpoints.last_checkpoint(Path(args.output_dir)))
    except torch.OutOfMemoryError:
        at_once = args.per_device_train_batch_size
        raise CourseError(
            f"the GPU's memory is too small for {at_once} rows at once: run again with -p rows_at_once="
            f"{max(1, at_once // 2)}"
            + ("" if getattr(args, checkpointing_field()) else " or -p activation_checkpointing=True")
        ) from None
    if distributed.is_main():
        tokens = [min(length, args.max_length) for length in sequences or lengths]
        a_step = args.num_train_epochs * sum(tokens) / trainer.state.max_steps
        timing = stopwatch.read(a_step, sum(tokens) / len(tokens))
        write_json(Path(args.output_dir).parent / "timing.json", timing)


def save_trained(trainer, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Write what was trained, a model or an adapter, whole and from the main process, with its tokenizer if given."""
    model, named = trainer.model, {}
    if trainer.is_fsdp_enabled:  # each process holds a part of the weights: all of them help to put the whole together
        whole = trainer.accelerator.get_state_dict(model)
        tied = {copy: whole[name] for copy, name in model.all_tied_weights_keys.items() if copy in whole}
        named = {"state_dict": whole | tied}
    if distributed.is_main():
        with quiet():
            model.save_pretrained(folder, **named)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)


def write_log(trainer, out: Path, counts: dict[str, Any]) -> None:
    """Write log.csv (one row a log event, split "train" or "heldout") and summary.json."""
    if not distributed.is_main():
        return
    rows = []
    for event in trainer.state.log_history:
        split = "train" if "loss" in event else "heldout"
        named = {name.removeprefix("eval_").replace("/", "_"): value for name, value in event.items()}
        if "loss" in named:
            rows.append(named | {"split": split})
    columns = ["step", "epoch", "split", *(name.replace("/", "_") for name in MEASURED)]
    log = pd.DataFrame(rows).reindex(columns=columns).dropna(axis="columns", how="all")
    log.to_csv(out / "log.csv", index=False)
    losses = {split: log.loc[log["split"] == split, "loss"].tolist() for split in ("train", "heldout")}
    write_json(
        out / "summary.json",
        counts
        | {
            "steps": trainer.state.global_step,
            "first_loss": losses["train"][0],
            "last_loss": losses["train"][-1],
            "heldout_first_loss": losses["heldout"][0],
            "heldout_last_loss": losses["heldout"][-1],
        },
    )
