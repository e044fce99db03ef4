"""What the imitated hub publishes under the real names: an OPT and a DeBERTa of a few thousand weights.

They are `.bin` files in float16, beside the traps that the real repositories hold too.
"""

import json
import os
import pickle
import time
from pathlib import Path

import pytest
import tiny
import torch

from helpers.core import repositories
from helpers.core.errors import DataError
from helpers.models import loading

OPT, REWARD_MODEL, HH = (place.id for place in (repositories.POLICY, repositories.REWARD_MODEL, repositories.DATASET))
PINNED = repositories.POLICY.revision
OTHER = "0123456789abcdef0123456789abcdef01234567"
TRAPS = {"flax_model.msgpack": b"flax", "tf_model.h5": b"tensorflow", "README.md": b"# a model"}
TEXT = "\n\nHuman: Is your dog near the river?\n\nAssistant: Yes, the happy dog sleeps."


class Bomb:
    """Unpickling it makes a folder: a malicious model would do worse."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def saved(thing, folder: Path, **how) -> bytes:
    torch.save(thing, folder / "saved", **how)
    return (folder / "saved").read_bytes()


def half(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A model's weights in float16; names that share memory go on sharing it."""
    seen = {}
    return {name: seen.setdefault(value.data_ptr(), value.half()) for name, value in model.state_dict().items()}


def opt_files(folder: Path) -> dict[str, bytes]:
    """The files of a repository like opt-350m's: float16, pytorch_model.bin, vocab.json and merges.txt."""
    model, tokenizer = tiny.policy()
    config = model.config.to_dict() | {"torch_dtype": "float16", "prefix": "</s>"}
    config.pop("dtype", None)
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    tokens = {name: {"content": text, **token} for name, text in loading.OPT_TOKENS.items()}
    about = {name: described | {"__type": "AddedToken"} for name, described in tokens.items()}
    about |= {"add_bos_token": True, "errors": "replace", "tokenizer_class": "GPT2Tokenizer"}
    texts = {
        "config.json": json.dumps(config),
        "generation_config.json": json.dumps({"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}),
        "tokenizer_config.json": json.dumps(about),
        "special_tokens_map.json": json.dumps(tokens),
        "vocab.json": json.dumps(bpe["vocab"]),
        "merges.txt": "\n".join(["#version: 0.2", *map(" ".join, bpe["merges"])]) + "\n",
    }
    files = {name: text.encode() for name, text in texts.items()}
    return files | TRAPS | {"pytorch_model.bin": saved(half(model), folder)}


def reward_model_files(folder: Path) -> dict[str, bytes]:
    """The files of a repository like the reward model's: tokenizer.json, and a pickle of training arguments."""
    model, tokenizer = tiny.reward_model()
    loading.save_model(model, tokenizer, folder)
    (folder / "model.safetensors").unlink()
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    config = json.loads(files["config.json"]) | {"torch_dtype": "float16"}
    config.pop("dtype", None)
    bombs = {"training_args.bin": pickle.dumps(Bomb(folder / "exploded"))}
    return files | bombs | {"config.json": json.dumps(config).encode(), "pytorch_model.bin": saved(half(model), folder)}


def folder_of(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def one_line(call, *args, kind=DataError) -> str:
    """The message of the error that a call ends with; it must be a single line and come without a long wait."""
    start = time.monotonic()
    with pytest.raises(kind) as caught:
        call(*args)
    text = str(caught.value)
    assert type(caught.value) is kind, "a notebook shows the name"
    assert "\n" not in text and len(text) < 600
    assert "Traceback" not in text and time.monotonic() - start < 8
    return text


def converted(results: Path) -> list[Path]:
    return sorted((results / ".models").glob("[!.]*"))
