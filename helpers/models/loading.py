"""Load and save policies, reward models and tokenizers: dtype, dropout and file format are decided here.

Three peculiarities of OPT (see also notebook 05): opt-350m's config says float16, so a plain load trains in half
precision; its dropout is a function's argument, no layer that could be switched off after loading; its tokenizer puts
`</s>` in front of every text.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from helpers.core import files
from helpers.core.errors import DataError
from helpers.core.quiet import quiet
from helpers.models import adapters, checkpoint_files, families, reward_labels, special_tokens
from helpers.models.hardware import pick_device

# Special tokens as in OPT's tokenizer_config.json. Without that file vocab.json and merges.txt are taken for GPT-2's.
OPT_TOKENS = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
REWARD_MAX_LENGTH = 512  # tokens of prompt and response together that a reward model is given


def model_folder(source: str | Path) -> Path:
    """The local folder from which a model is loaded, with its weights as safetensors: see `checkpoint_files`.

    source: a folder or hub id; for an adapter's folder, the merged model's folder is returned: see `adapters`.
    """
    return checkpoint_files.model_folder(_found(source))


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """A policy's tokenizer, with a padding token.

    source: a folder or hub id; for an OPT, vocab.json and merges.txt are enough. Raises DataError where a policy could
    not be trained with it: see `special_tokens`.
    """
    tokenizer, config = _load_tokenizer(AutoTokenizer, source)
    # Rows of the embedding: token ids must be below.
    rows = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    special_tokens.complete_policy(tokenizer, str(source), rows)
    return tokenizer


def load_policy(source: str | Path, *, dropout: float = 0.0, device: str = "auto") -> PreTrainedModel:
    """A causal language model of any family, in float32 and eval mode.

    source: a folder or hub id; an adapter's folder is merged with its base model first. dropout: a probability, written
    into the config before the model is built, since OPT's dropout cannot be set later; where the family has no such
    dropout, a printed line says so. device: "auto", "cpu" or "cuda". Raises DataError where the source is no causal
    language model or not complete.
    """
    model = _load_model(AutoModelForCausalLM, source, dropout)
    return model.to(pick_device(device)).eval()


def load_reward_model(source: str | Path, device: str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A reward model (a sequence classifier) in float32 and eval mode, and its tokenizer.

    source: a folder or hub id. device: "auto", "cpu" or "cuda". The tokenizer cuts from the left and pads on the right.
    For a model with two labels a printed line says how they make a score: see `reward_labels`. Raises DataError for
    more labels, or where the source is not complete.
    """
    model = _load_model(AutoModelForSequenceClassification, source)
    if remark := reward_labels.check(model.config, str(source)):
        _say(remark)
    # Use tokenizer.json as it is: DebertaV2Tokenizer makes its own normaliser, which turns "…" into [UNK].
    try:
        tokenizer, _ = _load_tokenizer(PreTrainedTokenizerFast, source)
    except DataError:
        tokenizer, _ = _load_tokenizer(AutoTokenizer, source)
    special_tokens.complete_classifier(tokenizer, str(source), model.config)
    tokenizer.truncation_side, tokenizer.padding_side = "left", "right"
    return model.to(pick_device(device)).eval(), tokenizer


@functools.cache
def _say(line: str) -> None:
    """Print a line, the first time only."""
    print(line)


def _found(source: str | Path) -> str | Path:
    """The source itself, or the plain model that an adapter's folder stands for. Raises DataError for neither."""
    if not Path(source).is_dir() and str(source).count("/") != 1:
        raise DataError(f"model {str(source)!r} is neither a folder nor a hub id: check policy= or reward_model=")
    return adapters.merged(source, merge_adapter) if adapters.is_adapter(source) else source


def _load_model(kind, source: str | Path, dropout: float | None = None) -> PreTrainedModel:
    """A model in float32 from safetensors, without remote code; `kind`: the Auto class of transformers.

    Raises DataError where a weight is missing or the model is of another kind.
    """
    folder = model_folder(source)
    # Config first: what kind of model it is, and the dropout with which it is to be built.
    with _readable(source):
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    _check_kind(kind, config, str(source))
    if dropout is not None:
        families.set_dropout(config, dropout)
        if remark := families.dropout_remark(config, dropout):
            _say(remark)
    # Then the weights. One that is missing would be made of random numbers.
    options = {"config": config, "dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    with _readable(source):
        model, loading_info = kind.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True, **options
        )
    if missing := sorted(loading_info["missing_keys"]):
        raise DataError(
            f"model {str(source)!r} has no weights for {missing[0]} ({len(missing)} such): it is no "
            f"{type(model).__name__}, or its files are not complete: check policy= or reward_model="
        )
    return model


def _check_kind(kind, config, name: str) -> None:
    """Raise DataError for a policy whose config names another kind of model: its weights might load all the same."""
    called = (config.architectures or [""])[0]
    if kind is AutoModelForCausalLM and called.endswith(("ForMaskedLM", "ForSequenceClassification")):
        raise DataError(f"model {name!r} is a {called}, no causal language model, so it cannot be a policy")


def _load_tokenizer(kind, source: str | Path) -> tuple[PreTrainedTokenizerFast, dict]:
    """A tokenizer, and the content of the config.json beside it ({} without one); `kind`: a class of transformers."""
    folder = checkpoint_files.tokenizer_folder(_found(source))
    options = OPT_TOKENS | {"add_bos_token": True} if _is_bare_opt(folder) else {}
    with _readable(source):
        tokenizer = kind.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True, **options)
    return tokenizer, files.read_json(folder / "config.json")


@contextmanager
def _readable(source: str | Path) -> Iterator[None]:
    """Quiet libraries, and a DataError of one line where they raise an error."""
    try:
        with quiet():
            yield
    except Exception as error:  # damaged files, and those of other programs, raise many kinds of error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DataError(
            f"model {str(source)!r} cannot be loaded ({reason}): give a complete folder or a reachable hub id"
        ) from None


def _is_bare_opt(folder: Path) -> bool:
    """Whether a folder holds an OPT's vocabulary and no file that names its special tokens."""
    named = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    return not named and files.read_json(folder / "config.json").get("model_type") == "opt"


def save_model(model: PreTrainedModel, tokenizer, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a model as safetensors, with its tokenizer.

    model, tokenizer: to write into `folder`. dtype: of the weights and in the config; None: as they are.
    """
    if dtype is not None:
        model = model.to(dtype)
        model.config.dtype = dtype
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def merge_adapter(policy: str | Path, adapter: str | Path, out: str | Path) -> None:
    """Add a LoRA adapter to the weights of its policy and write a plain model in float32.

    policy: a folder or hub id, the model on which the adapter was trained. adapter: its folder. out: folder to write.
    """
    from peft import PeftModel

    with quiet():
        model = PeftModel.from_pretrained(load_policy(policy, device="cpu"), str(adapter))
    save_model(model.merge_and_unload(), load_tokenizer(policy), out)


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """(number of trainable parameters, number of all parameters) of a model."""
    parameters = list(model.parameters())
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return trainable, sum(parameter.numel() for parameter in parameters)
