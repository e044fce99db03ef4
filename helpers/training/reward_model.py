"""Bradley-Terry training of a reward model on pairs of completions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from transformers import PreTrainedTokenizerBase, set_seed

from helpers.core.errors import CourseError
from helpers.core.quiet import quiet
from helpers.models.loading import REWARD_MAX_LENGTH, load_reward_model
from helpers.models.scoring import encode_pairs
from helpers.training import arguments, loop
from helpers.training.callbacks import Progress
from helpers.training.optimizers import with_muon
from helpers.training.rows import check_rows, dataset

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from helpers.core.settings import Settings


def train_reward_model(
    reward_model: PreTrainedModel | Path | str,
    tokenizer: PreTrainedTokenizerBase | None,
    train: pd.DataFrame,
    heldout: pd.DataFrame,
    settings: Settings,
    out: Path,
    *,
    progress: Progress | None = None,
) -> None:
    """Bradley-Terry training of all weights of a reward model: a model with its tokenizer, or a folder.

    Rows are encoded here as the (prompt, completion) pairs that will be scored: TRL's own text path would make one
    segment of them and append a second [SEP]. float32 throughout. Muon, as in `pretrain`.
    """
    from trl import RewardConfig, RewardTrainer

    if isinstance(reward_model, str | Path):
        reward_model, tokenizer = load_reward_model(reward_model, "cpu")
    if reward_model.config.num_labels != 1:
        raise CourseError("a reward model with two labels can score but not be trained here: take one with one label")
    epochs, rate = settings.reward_epochs, settings.reward_learning_rate
    fixed = {"max_length": REWARD_MAX_LENGTH, "bf16": False}
    how = {"epochs": epochs, "rate": rate, "batch": arguments.BATCH}
    plan = arguments.training_arguments(RewardConfig, settings, out, **how, **fixed)
    data = [dataset(_reward_rows(rows, tokenizer)) for rows in (train, heldout)]
    set_seed(settings.seed)
    with quiet():
        trainer = RewardTrainer(
            reward_model,
            plan,
            train_dataset=data[0],
            eval_dataset=data[1],
            processing_class=tokenizer,
            optimizer_cls_and_kwargs=with_muon(rate),
        )
        chosen, rejected = (list(trainer.train_dataset[f"{side}_ids"]) for side in ("chosen", "rejected"))
        counts = check_rows(trainer, len(train), chosen + rejected, tokenizer.sep_token_id, "[SEP]")
        lengths = [max(len(a), len(b)) for a, b in zip(chosen, rejected, strict=True)]
        loop.train(trainer, settings, lengths, progress=progress, sequences=[*map(len, chosen + rejected)])
        loop.save_trained(trainer, out / "model", tokenizer)
        loop.write_log(trainer, out, counts)


def _reward_rows(pairs: pd.DataFrame, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    """Columns chosen_ids and rejected_ids: [CLS] prompt [SEP] completion [SEP]."""
    encoded = {
        f"{side}_ids": encode_pairs(tokenizer, pairs["prompt"], pairs[side])["input_ids"]
        for side in ("chosen", "rejected")
    }
    return pd.DataFrame(encoded)
