"""Padding token, end of sequence (EOS) and vocabulary: what a model's tokenizer must have before it can be used.

The choice of the padding token changes no result: attention masks hide padding, and its labels are -100. A policy
learns EOS from the labels at the ends of its rows, also where the padding token is EOS.
"""

from typing import TYPE_CHECKING

from helpers.core.errors import DataError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


def complete_policy(tokenizer: "PreTrainedTokenizerBase", name: str, rows: int | None) -> None:
    """Check a policy's tokenizer, and give it a padding token where it has none.

    tokenizer: changed in place. name: the policy's, for messages. rows: of the model's embedding; None: unknown. Raises
    DataError where there is no EOS, where EOS ends every prompt, or where token ids have no embedding.
    """
    # Without EOS a policy could not learn to stop.
    end = tokenizer.eos_token_id
    if end is None:
        raise DataError(
            f"the tokenizer of {name!r} names no end-of-sequence token, so the policy could not learn to stop: "
            "write its eos_token into tokenizer_config.json"
        )
    # With EOS at the end of every text, a prompt would be over before the response begins.
    if len(ids := tokenizer("a")["input_ids"]) > 1 and ids[-1] == end:
        raise DataError(
            f"the tokenizer of {name!r} closes every text with {tokenizer.eos_token!r}, prompts too, so an answer "
            "would begin after the end: switch that off (add_eos_token, or the post_processor in tokenizer.json)"
        )
    pad_somehow(tokenizer, None)
    check_rows(tokenizer, name, rows)


def complete_classifier(tokenizer: "PreTrainedTokenizerBase", name: str, config: "PretrainedConfig") -> None:
    """Check a reward model's tokenizer, and give tokenizer and config the same padding token.

    tokenizer, config: changed in place. name: the model's, for messages. A classifier on a decoder (Llama, GPT-2) takes
    its score at the last token that is not the config's padding token. Raises DataError where token ids have no
    embedding.
    """
    text = config.get_text_config()
    pad_somehow(tokenizer, text.pad_token_id)
    check_rows(tokenizer, name, text.vocab_size)
    text.pad_token_id = tokenizer.pad_token_id


def pad_somehow(tokenizer: "PreTrainedTokenizerBase", wanted: int | None) -> None:
    """Choose a padding token where there is none.

    tokenizer: changed in place. wanted: the id of a token; None, or one that does not exist: EOS. EOS is not found
    inside a text, so no token of a text is taken for padding, as it would be with the token for unknown words.
    """
    if tokenizer.pad_token_id is None:
        known = None if wanted is None or wanted < 0 else tokenizer.convert_ids_to_tokens(wanted)
        tokenizer.pad_token = known or tokenizer.eos_token


def check_rows(tokenizer: "PreTrainedTokenizerBase", name: str, rows: int | None) -> None:
    """Raise DataError where a tokenizer has token ids beyond the model's embedding, or no padding token.

    name: the model's, for messages. rows: of the embedding; None: unknown, nothing is checked.
    """
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
