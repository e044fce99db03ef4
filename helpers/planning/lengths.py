"""How many rows a run trains on and how many tokens they have, before anything is tokenised."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from helpers.core.files import read_json
from helpers.core.profiles import DATA_CACHE
from helpers.core.settings import Settings

MEASURED = Path(__file__).with_name("hh_lengths.json")
# HH-RLHF's train splits, by its card.
TRAIN_PAIRS = {
    "harmless-base": 42_537,
    "helpful-base": 43_835,
    "helpful-rejection-sampled": 52_421,
    "helpful-online": 22_007,
}
UNMEASURED = {"helpful-rejection-sampled": "helpful-online"}  # its test file was not at hand: taken for the like
SAMPLE = 400  # rows of each subset that are read from a folder


class Lengths(NamedTuple):
    """Training pairs of a run, and mean tokens of an SFT row and of a DPO pair (both its sequences)."""

    pairs: int
    sft: float
    dpo: float
    prompt: float


def lengths_of(settings: Settings) -> Lengths:
    """Sizes of the training data: of a folder by its first rows, of HH-RLHF on the hub by its measured percentiles."""
    from helpers.pipeline.sources import locate

    subsets = [name.strip() for name in settings.subsets.split(",")]
    folder = DATA_CACHE / "mini_hh" if settings.dataset is None else locate(settings.dataset)
    found = [_of_folder(folder, name, settings) if folder else _of_hub(name, settings) for name in subsets]
    weights = [one.pairs for one in found]
    pairs = min(sum(weights), settings.train_pairs or sum(weights))
    means = (np.average([getattr(one, what) for one in found], weights=weights) for what in ("sft", "dpo", "prompt"))
    return Lengths(pairs, *map(float, means))


def _of_hub(subset: str, settings: Settings) -> Lengths:
    percentiles = read_json(MEASURED)["subsets"][UNMEASURED.get(subset, subset)]
    middles = {
        name: (np.array(percentiles[name][:-1]) + percentiles[name][1:]) / 2
        for name in ("prompt", "chosen", "rejected")
    }
    return _means(TRAIN_PAIRS[subset], **middles, settings=settings)


def _of_folder(folder: Path, subset: str, settings: Settings) -> Lengths:
    from helpers.data import pairs, transcripts
    from helpers.models.loading import load_tokenizer
    from helpers.pipeline.sources import locate

    path = pairs.find_split(folder, subset, "train")
    rows = pairs.load_transcripts(folder, [subset], "train") if path else None
    if rows is None or rows.empty:
        return _means(1, *(np.array([128.0]),) * 3, settings=settings)
    sample = rows.iloc[:: max(1, len(rows) // SAMPLE)]
    split = [[transcripts.split_reply(text) for text in sample[side]] for side in ("chosen", "rejected")]
    policy = DATA_CACHE / "policy" if settings.policy is None else locate(settings.policy)
    if policy:
        tokenizer = load_tokenizer(policy)
        count = lambda texts: np.array([len(ids) for ids in tokenizer(list(texts))["input_ids"]], float)  # noqa: E731
    else:
        ratio = read_json(MEASURED)["subsets"]["helpful-base"]["characters_a_token"]
        count = lambda texts: np.array([len(text) / ratio for text in texts])  # noqa: E731
    prompt, (chosen, rejected) = count([p for p, _ in split[0]]), (count([r for _, r in side]) for side in split)
    return _means(len(rows), prompt, chosen, rejected, settings=settings)


def _means(pairs: int, prompt: np.ndarray, chosen: np.ndarray, rejected: np.ndarray, *, settings: Settings) -> Lengths:
    """Means after prompts are cut and rows are: every reply is given the mean prompt, which is near enough."""
    s = settings
    cut = np.minimum(prompt, s.max_prompt_length if s.completion_only else s.sft_max_length).mean()
    sft = np.minimum(cut + chosen + 1, s.sft_max_length).mean()
    cut_dpo = np.minimum(prompt, s.max_prompt_length if s.explicit_prompt else s.dpo_max_length).mean()
    dpo = sum(np.minimum(cut_dpo + reply + 1, s.dpo_max_length).mean() for reply in (chosen, rejected))
    return Lengths(pairs, float(sft), float(dpo), float(cut))
