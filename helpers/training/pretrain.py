"""Pre-training: next-token prediction on whole dialogues."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from transformers import PreTrainedTokenizerBase, set_seed

from helpers.core.quiet import quiet
from helpers.models.families import positions
from helpers.models.loading import load_policy, load_tokenizer
from helpers.models.small_models import new_policy
from helpers.training import arguments, loop
from helpers.training.callbacks import Progress
from helpers.training.optimizers import with_muon
from helpers.training.rows import check_rows, dataset, labelled_only

if TYPE_CHECKING:
    from helpers.core.settings import Settings

UNLIMITED = 2048  # tokens of a text where the policy itself sees any number


def pretrain(
    start: PreTrainedTokenizerBase | Path | str,
    texts: Sequence[str],
    heldout_texts: Sequence[str],
    settings: Settings,
    out: Path,
    *,
    progress: Progress | None = None,
) -> None:
    """Next-token training on whole dialogues, each closed by EOS.

    `start` is a tokenizer, for which a new small policy is made, or a policy's folder. Texts longer than the model
    can see are cut at the end. No dropout. Muon instead of AdamW: see `optimizers`.
    """
    from trl import SFTConfig, SFTTrainer

    if isinstance(start, PreTrainedTokenizerBase):
        model, tokenizer = new_policy(start, seed=settings.seed, dropout=0.0), start
    else:
        model, tokenizer = load_policy(start, dropout=0.0, device="cpu"), load_tokenizer(start)
    epochs, rate = settings.pretrain_epochs, settings.pretrain_learning_rate
    longest = positions(model.config) or UNLIMITED
    how = {"epochs": epochs, "rate": rate, "batch": arguments.BATCH, "max_length": longest}
    plan = arguments.training_arguments(SFTConfig, settings, out, **how)
    data = [dataset(pd.DataFrame({"text": list(rows)})) for rows in (texts, heldout_texts)]
    set_seed(settings.seed)
    with quiet(), labelled_only():
        trainer = SFTTrainer(
            model,
            plan,
            train_dataset=data[0],
            eval_dataset=data[1],
            processing_class=tokenizer,
            optimizer_cls_and_kwargs=with_muon(rate),
        )
        ids = list(trainer.train_dataset["input_ids"])
        counts = check_rows(trainer, len(texts), ids, tokenizer.eos_token_id, "EOS")
        loop.train(trainer, settings, [*map(len, ids)], progress=progress)
        loop.save_trained(trainer, out / "model", tokenizer)
        loop.write_log(trainer, out, counts)
