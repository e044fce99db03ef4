"""Supervised fine-tuning (SFT) on the chosen completions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from transformers import set_seed

from helpers.core.methods import METHODS, imported
from helpers.core.quiet import quiet
from helpers.models.loading import load_policy, load_tokenizer
from helpers.training import arguments, loop, memory
from helpers.training.callbacks import Progress
from helpers.training.rows import check_prompts, check_rows, dataset, labelled_only

if TYPE_CHECKING:
    from helpers.core.settings import Settings


def train_sft(
    policy: Path | str,
    train: pd.DataFrame,
    heldout: pd.DataFrame,
    settings: Settings,
    out: Path,
    *,
    progress: Progress | None = None,
) -> None:
    """Supervised fine-tuning of all weights on the chosen completions, by next-token prediction.

    policy: the model to start from, a folder or hub id. train, heldout: pairs, columns prompt and chosen.
    With settings.completion_only the loss is on the completion's tokens, else on every token of the dialogue, human
    turns included, as in the paper's code. progress: called with (steps done, steps in all).

    Writes model/, log.csv, summary.json and timing.json into `out`. Raises CourseError when a row does not end with
    EOS, or when a prompt's tokens change with the completion that follows; DataError when no row is left or none fits
    into this device's memory.
    """
    method = METHODS["sft"]
    # Rows: prompt and completion apart where only the completion has a loss, else one text.
    train_rows = dataset(_sft_rows(train, settings.completion_only))
    heldout_rows = dataset(_sft_rows(heldout, settings.completion_only))
    # Policy and optimiser settings; as many rows at once as this device holds.
    tokenizer = load_tokenizer(policy)
    model = load_policy(policy, dropout=settings.dropout, device="cpu")
    config = arguments.training_arguments(
        imported(method.config),
        settings,
        out,
        epochs=settings.sft_epochs,
        rate=settings.sft_learning_rate,
        batch=settings.sft_batch_size,
        accumulate=settings.gradient_accumulation,
        on_device=memory.rows_for_this_device(settings, method, model),
        max_length=settings.sft_max_length,
    )
    set_seed(settings.seed)
    with quiet(), labelled_only():
        # TRL tokenises the rows and appends EOS.
        trainer = imported(method.trainer)(
            model, config, train_dataset=train_rows, eval_dataset=heldout_rows, processing_class=tokenizer
        )
        # Check that rows end with EOS and begin with the tokens of their prompts.
        ids = list(trainer.train_dataset["input_ids"])
        counts = check_rows(trainer, len(train), ids, tokenizer.eos_token_id, "EOS")
        if settings.completion_only:
            check_prompts(trainer.train_dataset["prompt"], trainer.train_dataset["completion"], tokenizer)
        # Train, then save the policy with its tokenizer, the log and the summary.
        lengths = [len(row) for row in ids]
        loop.train(trainer, settings, lengths, prompts=heldout["prompt"], progress=progress)
        loop.save_trained(trainer, out / "model", tokenizer)
        loop.write_log(trainer, out, counts)


def _sft_rows(pairs: pd.DataFrame, completion_only: bool) -> pd.DataFrame:
    """Pairs as TRL's SFTTrainer takes them: columns prompt and completion, or whole dialogues in a column text."""
    if completion_only:
        return pairs[["prompt", "chosen"]].rename(columns={"chosen": "completion"})
    return pd.DataFrame({"text": pairs["prompt"] + pairs["chosen"]})
