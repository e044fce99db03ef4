"""The rows of a training as TRL takes them, and the checks that every row passes before the first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import pandas as pd

from helpers.core.errors import CourseError, DataError
from helpers.models.loading import count_parameters

if TYPE_CHECKING:
    from datasets import Dataset


def dataset(rows: pd.DataFrame) -> Dataset:
    """Rows as a `datasets.Dataset` in memory, so that nothing is written into a cache in the user's home.

    Raises DataError when there are none.
    """
    from datasets import Dataset

    if rows.empty:
        raise DataError("no rows to train on or to hold out: give more pairs or a greater max_length setting")
    return Dataset.from_pandas(rows, preserve_index=False)


@contextmanager
def labelled_only() -> Iterator[None]:
    """Inside this context TRL computes logits only at positions that have a label, on a processor too.

    On a GPU TRL does so by itself. On a processor it computes logits for prompts and padding as well and then ignores
    them. The loss is the same either way, and the output head is much of a small model's work.
    """
    from trl.trainer import utils

    # TRL 1.16 picks the positions with a label where this function answers True. Other versions may not have it.
    if not hasattr(utils, "_use_triton"):
        yield
        return
    with mock.patch.object(utils, "_use_triton", lambda device: True):
        yield


def check_rows(trainer, given: int, ids: Sequence[Sequence[int]], end: int, name: str) -> dict[str, Any]:
    """Check that every row that is not cut ends with its last token, and count the rows that TRL dropped or will cut.

    trainer: one of TRL's, with its rows prepared. given: number of rows that it was given. ids: token ids of every
    sequence. end, name: id and name of the token that a sequence must end with, EOS or [SEP].

    Returns the counts for summary.json, lengths in tokens. Raises DataError when no row is left, CourseError when a
    sequence lacks its last token: the model would never learn to stop.
    """
    used, limit = len(trainer.train_dataset), trainer.args.max_length
    if not used:
        raise DataError(f"every training row is longer than {limit} tokens: raise the max_length setting")
    endless = sum(row[-1] != end for row in ids if len(row) < limit)
    if endless:
        raise CourseError(
            f"{endless} of {len(ids)} training rows do not end with {name}, so the model would never learn to stop: "
            "check the tokenizer's special tokens"
        )
    # Lengths as the model sees them: after the cut.
    lengths = [min(len(row), limit) for row in ids]
    trainable, parameters = count_parameters(trainer.model)
    return {
        "rows_given": given,
        "rows_used": used,
        "rows_dropped": given - used,
        "rows_cut": sum(row[:limit][-1] != end for row in ids),
        "tokens_mean": round(sum(lengths) / len(lengths), 1),
        "tokens_max": max(lengths),
        "trainable_parameters": trainable,
        "parameters": parameters,
        "example": {"first_ids": list(ids[0][:8]), "last_ids": list(ids[0][:limit][-8:]), "eos_token_id": end},
    }


def check_prompts(prompts: Sequence[str], completions: Sequence[str], tokenizer) -> None:
    """Check that a prompt with its completion begins with the very tokens of the prompt alone.

    prompts, completions: texts, row by row. tokenizer: the policy's. In use a policy sees a prompt alone; where a
    tokenizer joins the prompt's last letter with the completion's first one, it would be trained on other tokens.
    The texts are encoded here because TRL's rows do not show it: TRL encodes a prompt by itself and puts the
    completion's tokens behind. Raises CourseError when a prompt's tokens change.
    """
    # Encode prompts alone and followed by their completions.
    alone = tokenizer(list(prompts))["input_ids"]
    dialogues = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    followed = tokenizer(dialogues)["input_ids"]
    changed = [prompt for prompt, ids, row in zip(prompts, alone, followed, strict=True) if row[: len(ids)] != ids]
    if not changed:
        return
    # Say what to do: the prompts are at fault, or the tokenizer is.
    remedy = "end prompts with 'Assistant:' and begin completions with a space"
    if changed[0].endswith("Assistant:"):
        remedy = (
            "this tokenizer joins the colon with what follows, so take a policy with another tokenizer, or train "
            "on whole dialogues (SFT: completion_only=False)"
        )
    raise CourseError(
        f"{len(changed)} of {len(alone)} prompts change their last tokens when the completion follows (the first "
        f"ends {changed[0][-20:]!r}): {remedy}"
    )
