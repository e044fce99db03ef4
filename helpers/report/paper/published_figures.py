"""What the paper reports (arXiv 2509.09055): figures only, each block with its source. The data are in data_cache/."""

import json
from typing import Any

import pandas as pd

from helpers.core.errors import DataError
from helpers.core.profiles import DATA_CACHE

FIGURES, SCORES = DATA_CACHE / "published.json", DATA_CACHE / "published_scores.csv"
COLUMNS = [
    "side", "prompt", "model", "score", "characters", "starts_with_cue", "human_turn", "empty", "keyword_in_prompt",
    "reply_in_prompt",
]  # fmt: skip


def published() -> dict[str, Any]:
    """Every figure of the paper that the course quotes, by block ("table1", "figure3", "recipe", "discordant", ...).

    Each block says in "source" whether it is printed in the paper, read from the authors' notebooks, recomputed here
    from their published scores, or second-hand (block "second_hand": numbers that circulate and are not the paper's).
    Rates are in percent, losses and log-probabilities in nats. Raises DataError when the file is missing or damaged.
    """
    try:
        return json.loads(FIGURES.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"data_cache/{FIGURES.name} is missing or damaged ({type(error).__name__}): restore it from the repository"
        ) from error


def scores() -> pd.DataFrame:
    """The 400 published scores with figures about each response and prompt: COLUMNS, one row a response, no text.

    score: the reward model's raw logit. characters: the response's length. The others are 0 or 1: the response begins
    with "Assistant:", holds "Human:", is empty; the prompt holds a keyword as a word, holds the reference reply.
    Raises DataError when the file is missing or damaged.
    """
    try:
        return pd.read_csv(SCORES)
    except (OSError, ValueError) as error:
        raise DataError(
            f"data_cache/{SCORES.name} is missing or damaged ({type(error).__name__}): restore it from the repository"
        ) from error


def table1() -> pd.DataFrame:
    """The paper's Table 1: one row a model (base, sft, dpo, sft_dpo), columns hmr, hpr and cas in percent."""
    return pd.DataFrame.from_dict(published()["table1"]["models"], orient="index")


def discordant_counts() -> pd.DataFrame:
    """Prompts of 50 that exactly one of two models passes: columns metric, a, b, only_a, only_b (recomputed here)."""
    block = published()["discordant"]
    parts = [pd.DataFrame(block[metric]).assign(metric=metric) for metric in ("hmr", "hpr")]
    return pd.concat(parts, ignore_index=True)[["metric", "a", "b", "only_a", "only_b"]]
