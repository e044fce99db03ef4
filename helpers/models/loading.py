"""Load and save policies, reward models, adapters and tokenizers: dtype, dropout and file format are decided here.

OPT's traps (see also notebook 05): opt-350m's config says float16, so a plain load trains in half precision; its
dropout is functional, so nobody can switch it off after loading; its tokenizer puts ``</s>`` in front of every text.
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

# What OPT's tokenizer_config.json says. Without that file its vocab.json and merges.txt would be read as GPT-2's.
OPT_TOKENS = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
REWARD_MAX_LENGTH = 512  # tokens of prompt and reply together that the judge reads


def model_folder(source: str | Path) -> Path:
    """The local folder that a folder's or hub id's model is loaded from, its weights as safetensors: see `hub`.

    For an adapter's folder it is that of the merged model: see `adapters`.
    """
    return checkpoint_files.model_folder(_found(source))


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """A policy's tokenizer, from a folder or hub id; for an OPT, vocab.json and merges.txt are enough.

    One without a padding token gets one. Raises DataError where it cannot serve a policy: see `special_tokens`.
    """
    tokenizer, config = _load_tokenizer(AutoTokenizer, source)
    rows = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    special_tokens.complete_policy(tokenizer, str(source), rows)
    return tokenizer


def load_policy(source: str | Path, *, dropout: float = 0.0, device: str = "auto") -> PreTrainedModel:
    """A causal language model of any family in float32 and eval mode, from a folder or hub id.

    An adapter's folder is merged with its base model first. ``dropout`` (a probability) replaces the config's values at
    load, the only moment at which OPT's functional dropout can be set; what a family lacks is said in a printed line.
    Raises DataError where the source is no causal language model or not complete.
    """
    model = _load_model(AutoModelForCausalLM, source, dropout)
    return model.to(pick_device(device)).eval()


def load_reward_model(source: str | Path, device: str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A sequence classifier in float32 and eval mode, and its tokenizer: it cuts from the left, pads on the right.

    With one label its logit is the score. With two, the score is the logit of the good label minus that of the bad one,
    which a printed line says: see `reward_labels`. Raises DataError for more labels.
    """
    model = _load_model(AutoModelForSequenceClassification, source)
    if remark := reward_labels.check(model.config, str(source)):
        _say(remark)
    try:
        # tokenizer.json as it is: DebertaV2Tokenizer rebuilds the normaliser and turns "…" or a hard space into [UNK].
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
    """from_pretrained of a folder that `hub` finds: float32 from safetensors, no remote code, no weight missing."""
    folder = model_folder(source)
    with _readable(source):
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    _check_kind(kind, config, str(source))
    if dropout is not None:
        families.set_dropout(config, dropout)
        if remark := families.dropout_remark(config, dropout):
            _say(remark)
    options = {"config": config, "dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    with _readable(source):
        model, report = kind.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True, **options)
    if missing := sorted(report["missing_keys"]):  # they would be random numbers
        raise DataError(
            f"model {str(source)!r} has no weights for {missing[0]} ({len(missing)} such): it is no "
            f"{type(model).__name__}, or its files are not complete: check policy= or reward_model="
        )
    return model


def _check_kind(kind, config, name: str) -> None:
    """Raise DataError for a policy that its config calls another kind of model: its weights might load all the same."""
    called = (config.architectures or [""])[0]
    if kind is AutoModelForCausalLM and called.endswith(("ForMaskedLM", "ForSequenceClassification")):
        raise DataError(f"model {name!r} is a {called}, no causal language model, so it cannot be a policy")


def _load_tokenizer(kind, source: str | Path) -> tuple[PreTrainedTokenizerFast, dict]:
    """A tokenizer from a folder that `hub` finds, and the config.json beside it ({} without one)."""
    folder = checkpoint_files.tokenizer_folder(_found(source))
    options = OPT_TOKENS | {"add_bos_token": True} if _is_bare_opt(folder) else {}
    with _readable(source):
        tokenizer = kind.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True, **options)
    return tokenizer, files.read_json(folder / "config.json")


@contextmanager
def _readable(source: str | Path) -> Iterator[None]:
    """Quiet libraries, and one readable line where they fail."""
    try:
        with quiet():
            yield
    except Exception as error:  # damaged or foreign files raise many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DataError(
            f"model {str(source)!r} cannot be loaded ({reason}): give a complete folder or a reachable hub id"
        ) from None


def _is_bare_opt(folder: Path) -> bool:
    """Whether a folder holds an OPT's vocabulary without a word on its special tokens."""
    told = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    return not told and files.read_json(folder / "config.json").get("model_type") == "opt"


def save_model(model: PreTrainedModel, tokenizer, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write model and tokenizer as safetensors; with ``dtype`` the weights and the config's dtype become that."""
    if dtype is not None:
        model = model.to(dtype)
        model.config.dtype = dtype
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def merge_adapter(policy: str | Path, adapter: str | Path, out: str | Path) -> None:
    """Add a LoRA adapter to the weights it was trained on and write the sum as a plain model in float32."""
    from peft import PeftModel

    with quiet():
        model = PeftModel.from_pretrained(load_policy(policy, device="cpu"), str(adapter))
    save_model(model.merge_and_unload(), load_tokenizer(policy), out)


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(n for n, trainable in sizes if trainable), sum(n for n, _ in sizes)
