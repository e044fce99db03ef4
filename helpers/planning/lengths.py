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
    """Training pairs of a run, and mean tokens of an SFT row, of a DPO pair (both its sequences) and of a prompt."""

    pairs: int
    sft: float
    dpo: float
    prompt: float


def lengths_of(settings: Settings) -> Lengths:
    """Sizes of the training data: a folder's by a sample of its rows, HH-RLHF's on the hub by its percentiles."""
    from helpers.pipeline.sources import locate

    # Every subset by itself.
    folder = DATA_CACHE / "mini_hh" if settings.dataset is None else locate(settings.dataset)
    found = []
    for name in settings.subsets.split(","):
        subset = name.strip()
        found.append(_of_folder(folder, subset, settings) if folder else _of_hub(subset, settings))
    # All together: a subset weighs as much as it has pairs.
    weights = [one.pairs for one in found]
    pairs = min(sum(weights), settings.train_pairs or sum(weights))
    sft = np.average([one.sft for one in found], weights=weights)
    dpo = np.average([one.dpo for one in found], weights=weights)
    prompt = np.average([one.prompt for one in found], weights=weights)
    return Lengths(pairs, float(sft), float(dpo), float(prompt))


def _of_hub(subset: str, settings: Settings) -> Lengths:
    """Lengths of a subset of HH-RLHF, taken as a hundred rows of the lengths between its percentiles."""
    percentiles = read_json(MEASURED)["subsets"][UNMEASURED.get(subset, subset)]
    middles = {}
    for name in ("prompt", "chosen", "rejected"):
        values = np.array(percentiles[name])
        middles[name] = (values[:-1] + values[1:]) / 2
    return _means(TRAIN_PAIRS[subset], **middles, settings=settings)


def _of_folder(folder: Path, subset: str, settings: Settings) -> Lengths:
    """Lengths of a subset in a folder: about SAMPLE of its rows are read."""
    from helpers.data import pairs, transcripts

    # A folder without rows is planned as one row of a usual length; the run itself refuses it.
    path = pairs.find_split(folder, subset, "train")
    rows = pairs.load_transcripts(folder, [subset], "train") if path else None
    if rows is None or rows.empty:
        return _means(1, *(np.array([128.0]),) * 3, settings=settings)
    # Split the dialogues of a sample into prompt and reply, and count tokens.
    sample = rows.iloc[:: max(1, len(rows) // SAMPLE)]
    chosen = [transcripts.split_reply(text) for text in sample["chosen"]]
    rejected = [transcripts.split_reply(text) for text in sample["rejected"]]
    return _means(
        len(rows),
        prompt=_tokens([prompt for prompt, _ in chosen], settings),
        chosen=_tokens([reply for _, reply in chosen], settings),
        rejected=_tokens([reply for _, reply in rejected], settings),
        settings=settings,
    )


def _tokens(texts: list[str], settings: Settings) -> np.ndarray:
    """Tokens of each text, shape (texts,): by the policy's tokenizer where it is here, else by a measured ratio."""
    from helpers.models.loading import load_tokenizer
    from helpers.pipeline.sources import locate

    policy = DATA_CACHE / "policy" if settings.policy is None else locate(settings.policy)
    if policy:
        rows = load_tokenizer(policy)(texts)["input_ids"]
        return np.array([len(ids) for ids in rows], float)
    characters_a_token = read_json(MEASURED)["subsets"]["helpful-base"]["characters_a_token"]
    return np.array([len(text) / characters_a_token for text in texts])


def _means(pairs: int, prompt: np.ndarray, chosen: np.ndarray, rejected: np.ndarray, *, settings: Settings) -> Lengths:
    """Mean lengths after prompts and rows were cut to the limits in the settings.

    prompt, chosen, rejected: tokens, shape (rows,). Every reply is given the mean prompt, which is near enough.
    """
    s = settings
    # SFT: prompt, chosen reply and EOS.
    cut = np.minimum(prompt, s.max_prompt_length if s.completion_only else s.sft_max_length).mean()
    sft = np.minimum(cut + chosen + 1, s.sft_max_length).mean()
    # DPO: the prompt with each reply and EOS.
    cut_dpo = np.minimum(prompt, s.max_prompt_length if s.explicit_prompt else s.dpo_max_length).mean()
    dpo = sum(np.minimum(cut_dpo + reply + 1, s.dpo_max_length).mean() for reply in (chosen, rejected))
    return Lengths(pairs, float(sft), float(dpo), float(cut))
