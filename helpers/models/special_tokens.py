"""Padding, end of sequence and vocabulary: what a model's tokenizer must have before it can be used, and why not.

Padding never decides what is learned or answered: attention masks hide it, and labels at padding are -100 whatever its
id is. A policy learns EOS from its labels even where EOS pads.
"""

from typing import TYPE_CHECKING

from helpers.core.errors import DataError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


def complete_policy(tokenizer: "PreTrainedTokenizerBase", name: str, rows: int | None) -> None:
    """Give a policy's tokenizer a padding token where it has none.

    name: the policy's. rows: of the embedding (None: unknown). Raises DataError where a policy could not learn to stop,
    would stop before it answers, or would read token ids that it has no embedding for.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise DataError(
            f"the tokenizer of {name!r} names no end-of-sequence token, so the policy could not learn to stop: "
            "write its eos_token into tokenizer_config.json"
        )
    if len(ids := tokenizer("a")["input_ids"]) > 1 and ids[-1] == end:
        raise DataError(
            f"the tokenizer of {name!r} closes every text with {tokenizer.eos_token!r}, prompts too, so an answer "
            "would begin after the end: switch that off (add_eos_token, or the post_processor in tokenizer.json)"
        )
    pad_somehow(tokenizer, None)
    check_rows(tokenizer, name, rows)


def complete_classifier(tokenizer: "PreTrainedTokenizerBase", name: str, config: "PretrainedConfig") -> None:
    """Give a classifier's tokenizer a padding token, and its config the same one.

    Classifiers built on a decoder (Llama, GPT-2) read their score at the last token that is not the config's padding
    token. Raises DataError as `complete_policy` does.
    """
    text = config.get_text_config()
    pad_somehow(tokenizer, text.pad_token_id)
    check_rows(tokenizer, name, text.vocab_size)
    text.pad_token_id = tokenizer.pad_token_id


def pad_somehow(tokenizer: "PreTrainedTokenizerBase", wanted: int | None) -> None:
    """Choose a padding token where there is none: `wanted` (an id) if it exists, else EOS.

    EOS stands nowhere inside a text, so that no token of a text is taken for padding. An unknown token would be.
    """
    if tokenizer.pad_token_id is None:
        known = None if wanted is None or wanted < 0 else tokenizer.convert_ids_to_tokens(wanted)
        tokenizer.pad_token = known or tokenizer.eos_token


def check_rows(tokenizer: "PreTrainedTokenizerBase", name: str, rows: int | None) -> None:
    """Raise DataError where a tokenizer has token ids beyond the model's embedding."""
    if rows is None:
        return
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if tokenizer.pad_token_id is None:
        raise DataError(f"the tokenizer of {name!r} has no token to pad with: write a pad_token into its config")
    if largest >= rows:
        what = "its padding token " if token == tokenizer.pad_token else ""
        raise DataError(
            f"the tokenizer of {name!r} has token ids up to {largest} ({what}{token!r}), but the model has only {rows} "
            "embeddings: take the tokenizer that belongs to the model"
        )
