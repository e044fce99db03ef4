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

UNLIMITED = 2048  # tokens of a text where the policy has no longest input


def pretrain(
    start: PreTrainedTokenizerBase | Path | str,
    texts: Sequence[str],
    heldout_texts: Sequence[str],
    settings: Settings,
    out: Path,
    *,
    progress: Progress | None = None,
) -> None:
    """Next-token prediction on whole dialogues, each followed by EOS, without dropout.

    start: a tokenizer, for which a new small policy is made, or the folder or hub id of a policy to go on with.
    texts, heldout_texts: dialogues; those longer than the model's context are cut at the end. settings: epochs,
    learning rate, seed, device. progress: called with (steps done, steps in all).

    Writes model/, log.csv, summary.json and timing.json into `out`. The optimiser is Muon: see `optimizers`. Raises
    CourseError when a text does not end with EOS, DataError when there is none.
    """
    from trl import SFTConfig, SFTTrainer

    # A new small policy, or one to go on with.
    if isinstance(start, PreTrainedTokenizerBase):
        model, tokenizer = new_policy(start, seed=settings.seed, dropout=0.0), start
    else:
        model, tokenizer = load_policy(start, dropout=0.0, device="cpu"), load_tokenizer(start)
    rate = settings.pretrain_learning_rate
    config = arguments.training_arguments(
        SFTConfig,
        settings,
        out,
        epochs=settings.pretrain_epochs,
        rate=rate,
        batch=arguments.BATCH,
        max_length=positions(model.config) or UNLIMITED,
    )
    train_rows = dataset(pd.DataFrame({"text": list(texts)}))
    heldout_rows = dataset(pd.DataFrame({"text": list(heldout_texts)}))
    set_seed(settings.seed)
    with quiet(), labelled_only():
        # TRL tokenises the texts and appends EOS.
        trainer = SFTTrainer(
            model,
            config,
            train_dataset=train_rows,
            eval_dataset=heldout_rows,
            processing_class=tokenizer,
            optimizer_cls_and_kwargs=with_muon(rate),
        )
        ids = list(trainer.train_dataset["input_ids"])
        counts = check_rows(trainer, len(texts), ids, tokenizer.eos_token_id, "EOS")
        # Train, then save the policy with its tokenizer, the log and the summary.
        loop.train(trainer, settings, [len(row) for row in ids], progress=progress)
        loop.save_trained(trainer, out / "model", tokenizer)
        loop.write_log(trainer, out, counts)
