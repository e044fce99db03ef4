"""Reward-model scores: one raw number for a (prompt, response) pair, higher is better."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from helpers.models import reward_labels
from helpers.models.batching import by_length
from helpers.models.families import positions
from helpers.models.loading import REWARD_MAX_LENGTH, load_reward_model

STRETCH = 1.1  # a batch's longest row over its shortest: all of a row is computed, padding too


def score(
    reward_model: str | Path | tuple,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    batch_size: int,
    max_length: int | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Score responses in float32: float64 array of shape (n,), raw logits (of two labels: their difference).

    Each pair is encoded as two segments, as in the paper's notebook, or as one text where the model knows none: see
    `encode_pairs`. What is too long loses the oldest part of the prompt, never the response (``only_first``,
    truncation from the left). max_length: in tokens; None: 512, or less where the model sees less.
    """
    model, tokenizer = reward_model if isinstance(reward_model, tuple) else load_reward_model(reward_model, device)
    scores = np.zeros(len(prompts))
    if not len(prompts):
        return scores
    longest = max_length or min(REWARD_MAX_LENGTH, positions(model.config) or REWARD_MAX_LENGTH)
    encoded = encode_pairs(tokenizer, prompts, responses, longest)
    done = 0

    def fits(rows: int, shortest: int, longest: int) -> bool:
        return rows <= batch_size and longest <= STRETCH * shortest

    for rows in by_length([*map(len, encoded["input_ids"])], fits):
        batch = {name: [values[i] for i in rows] for name, values in encoded.items()}
        padded = tokenizer.pad(batch, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            logits = model(**padded).logits
        scores[rows] = reward_labels.scores(logits, model.config).double().cpu().numpy()
        done += len(rows)
        if progress:
            progress(done, len(prompts))
    return scores


def encode_pairs(tokenizer, prompts: Sequence[str], responses: Sequence[str], max_length: int = REWARD_MAX_LENGTH):
    """Token ids of (prompt, response) pairs, not padded. A response that alone fills the row loses its end.

    Two segments with a separator, or, where the tokenizer knows no separator (classifiers on a decoder such as Llama or
    GPT-2), one text: the prompt with the response right behind it.
    """
    paired = tokenizer.sep_token_id is not None
    room = max_length - tokenizer.num_special_tokens_to_add(pair=paired) - 1  # one token of the prompt stays
    responses = [_beginning(tokenizer, response, room) for response in responses]
    tokenizer.truncation_side = "left"
    if not paired:
        texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        return tokenizer(texts, truncation=True, max_length=max_length)
    return tokenizer(list(prompts), responses, truncation="only_first", max_length=max_length)


def _beginning(tokenizer, response: str, limit: int) -> str:
    if len(response) <= limit:  # a token has at least one character
        return response
    offsets = tokenizer(response, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return response if len(offsets) <= limit else response[: offsets[limit - 1][1]]


def pair_scores(reward_model, pairs: pd.DataFrame, *, batch_size: int, device: str = "auto") -> pd.DataFrame:
    """Scores of both replies of each pair: columns chosen_score, rejected_score, index as in ``pairs``."""
    loaded = reward_model if isinstance(reward_model, tuple) else load_reward_model(reward_model, device)
    columns = {
        f"{side}_score": score(loaded, list(pairs["prompt"]), list(pairs[side]), batch_size=batch_size)
        for side in ("chosen", "rejected")
    }
    return pd.DataFrame(columns, index=pairs.index)
