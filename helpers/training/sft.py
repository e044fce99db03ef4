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
    """Supervised fine-tuning of all weights on the chosen completions.

    With settings.completion_only the loss is on the completion, else on every token of the dialogue, human turns
    included, as in the paper's code. Raises CourseError when a row would not teach EOS, or when a prompt's tokens
    change with what follows.
    """
    method = METHODS["sft"]
    data = [dataset(_sft_rows(rows, settings.completion_only)) for rows in (train, heldout)]
    tokenizer = load_tokenizer(policy)
    model = load_policy(policy, dropout=settings.dropout, device="cpu")
    plan = arguments.training_arguments(
        imported(method.config),
        settings,
        out,
        epochs=settings.sft_epochs,
        rate=settings.sft_learning_rate,
        batch=settings.sft_batch_size,
        accumulate=settings.gradient_accumulation,
        fitting=memory.rows_for_this_device(settings, method, model),
        max_length=settings.sft_max_length,
    )
    set_seed(settings.seed)
    with quiet(), labelled_only():
        trainer = imported(method.trainer)(
            model, plan, train_dataset=data[0], eval_dataset=data[1], processing_class=tokenizer
        )
        ids = list(trainer.train_dataset["input_ids"])
        counts = check_rows(trainer, len(train), ids, tokenizer.eos_token_id, "EOS")
        if settings.completion_only:
            check_prompts(trainer.train_dataset["prompt"], trainer.train_dataset["completion"], tokenizer)
        loop.train(trainer, settings, [*map(len, ids)], prompts=heldout["prompt"], progress=progress)
        loop.save_trained(trainer, out / "model", tokenizer)
        loop.write_log(trainer, out, counts)


def _sft_rows(pairs: pd.DataFrame, completion_only: bool) -> pd.DataFrame:
    if completion_only:
        return pairs[["prompt", "chosen"]].rename(columns={"chosen": "completion"})
    return pd.DataFrame({"text": pairs["prompt"] + pairs["chosen"]})
