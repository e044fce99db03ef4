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
    """Train all weights of a reward model on pairs, with the Bradley-Terry loss: see `losses.bradley_terry_loss`.

    reward_model, tokenizer: a model and its tokenizer, or a folder or hub id and None. train, heldout: pairs, columns
    prompt, chosen, rejected. settings: epochs, learning rate, seed, device. progress: called with (steps done, steps in
    all). Everything is computed in float32; the optimiser is Muon, as in `pretrain`.

    Writes model/, log.csv, summary.json and timing.json into `out`. Raises CourseError for a model with two labels and
    for rows that do not end with [SEP], DataError when no row is left.
    """
    from trl import RewardConfig, RewardTrainer

    if isinstance(reward_model, str | Path):
        reward_model, tokenizer = load_reward_model(reward_model, "cpu")
    if reward_model.config.num_labels != 1:
        raise CourseError("a reward model with two labels can score but not be trained here: take one with one label")
    rate = settings.reward_learning_rate
    config = arguments.training_arguments(
        RewardConfig,
        settings,
        out,
        epochs=settings.reward_epochs,
        rate=rate,
        batch=arguments.BATCH,
        max_length=REWARD_MAX_LENGTH,
        bf16=False,
    )
    # Tokenise here, as for scoring: TRL would make one segment of prompt and completion and append a second [SEP].
    train_rows = dataset(_reward_rows(train, tokenizer))
    heldout_rows = dataset(_reward_rows(heldout, tokenizer))
    set_seed(settings.seed)
    with quiet():
        trainer = RewardTrainer(
            reward_model,
            config,
            train_dataset=train_rows,
            eval_dataset=heldout_rows,
            processing_class=tokenizer,
            optimizer_cls_and_kwargs=with_muon(rate),
        )
        # Check that both sequences of every pair end with [SEP].
        chosen, rejected = list(trainer.train_dataset["chosen_ids"]), list(trainer.train_dataset["rejected_ids"])
        counts = check_rows(trainer, len(train), chosen + rejected, tokenizer.sep_token_id, "[SEP]")
        # Train; a pair is as long as the longer one of its two sequences.
        longest = [max(len(a), len(b)) for a, b in zip(chosen, rejected, strict=True)]
        sequences = [len(ids) for ids in chosen + rejected]
        loop.train(trainer, settings, longest, progress=progress, sequences=sequences)
        loop.save_trained(trainer, out / "model", tokenizer)
        loop.write_log(trainer, out, counts)


def _reward_rows(pairs: pd.DataFrame, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    """Columns chosen_ids and rejected_ids: token ids of [CLS] prompt [SEP] completion [SEP]."""
    chosen = encode_pairs(tokenizer, pairs["prompt"], pairs["chosen"])["input_ids"]
    rejected = encode_pairs(tokenizer, pairs["prompt"], pairs["rejected"])["input_ids"]
    return pd.DataFrame({"chosen_ids": chosen, "rejected_ids": rejected})
