"""A model's files: which of a folder's or repository's files are its weights, whether they are whole, and safetensors.

Everything ends as a local folder of safe files. A pickle (`.bin`, as OPT-350M's) can run code when it is opened. Here
only its tensors are taken, once; from then on the copy in results/.models/ is used, whose name comes from the content
of what it was made from.
"""

from __future__ import annotations

import pickle
import re
import shutil
import warnings
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.core import files, store
from helpers.core.errors import DataError
from helpers.core.files import read_json
from helpers.core.hub import SMALL_FILES, snapshot, way_out
from helpers.core.profiles import results_root
from helpers.core.repositories import repository

if TYPE_CHECKING:
    import torch


TOKENIZERS = ({"tokenizer.json"}, {"vocab.json", "merges.txt"}, {"vocab.txt"}, {"spm.model"}, {"tokenizer.model"})
# Options of `hf download` with which it fetches enough of a model and not the weights of other libraries.
WITHOUT_OTHER_WEIGHTS = "--exclude '*.h5' --exclude '*.msgpack'"


def model_folder(source: str | Path) -> Path:
    """A local folder with a model's config and its weights, these as safetensors. source: a folder or a hub id.

    Raises DataError where it is not on the hub, out of reach, damaged or unsafe; StageError for a full disk.
    """
    folder = Path(source) if Path(source).is_dir() else _model_snapshot(str(source), with_weights=True)
    files = files_among(names_in(folder))
    if problem := weights_problem(folder, files):
        raise DataError(f"model {str(source)!r} {problem}: {AGAIN}")
    return safe_copy(folder, files, str(source)) if are_pickles(files) else folder


def tokenizer_folder(source: str | Path) -> Path:
    """A local folder with a model's config and tokenizer; no weights are downloaded. Otherwise as `model_folder`."""
    return Path(source) if Path(source).is_dir() else _model_snapshot(str(source), with_weights=False)


def _model_snapshot(name: str, *, with_weights: bool) -> Path:
    asked = repository(name, "model")

    def choose(names: Collection[str]) -> list[str]:
        found = files_among(names) if with_weights else []
        if "config.json" not in names or (with_weights and not found):
            needed = "config.json, or model.safetensors or pytorch_model.bin"
            raise DataError(f"{asked} lacks {needed} on the hub: take another, {way_out(asked)}")
        return [name for name in SMALL_FILES if name in names] + found

    def lacks(snapshot: Path) -> str | None:
        names = names_in(snapshot)
        if "config.json" not in names:
            return "lacks config.json"
        if with_weights:
            return weights_problem(snapshot, files_among(names))
        return None if any(needed <= names for needed in TOKENIZERS) else "lacks its tokenizer"

    return snapshot(asked, choose, lacks, WITHOUT_OTHER_WEIGHTS)


# Names of weights, the preferred first. Nothing else is read or downloaded: training_args.bin is a pickle of objects.
KINDS = (
    r"model\.safetensors",
    r"model-\d+-of-\d+\.safetensors|model\.safetensors\.index\.json",
    r"pytorch_model\.bin",
    r"pytorch_model-\d+-of-\d+\.bin|pytorch_model\.bin\.index\.json",
)
AGAIN = "fetch that file again (from the hub: hf download --force-download), or give a complete folder"
CONFIGS = ("config.json", "generation_config.json")  # what a model is loaded with, beside its weights


def names_in(folder: Path) -> set[str]:
    """Names of the files in a folder; a link to nothing is no file."""
    return {path.name for path in folder.iterdir() if path.is_file()}


def files_among(names: Collection[str]) -> list[str]:
    """The weight files among some names, of the first kind of KINDS that is there; [] without any."""
    found = ([name for name in sorted(names) if re.fullmatch(pattern, name)] for pattern in KINDS)
    return next((some for some in found if some), [])


def are_pickles(files: list[str]) -> bool:
    """Whether weight files, as `files_among` finds them, must be converted before they are used."""
    return bool(files) and files[0].startswith("pytorch_model")


def weights_problem(folder: Path, files: list[str]) -> str | None:
    """What is wrong with a folder's weights, in a few words; None if all are there and safetensors are whole."""
    from safetensors import SafetensorError, safe_open

    if not files:
        return "lacks weights (model.safetensors or pytorch_model.bin)"
    expected = set(files)
    for index in (name for name in files if name.endswith(".index.json")):
        expected |= set(read_json(folder / index).get("weight_map", {}).values())
    for name in sorted(expected):
        path = folder / name
        if not path.is_file():
            return f"lacks {name}"
        with path.open("rb") as file:
            if file.read(20) == b"version https://git-":
                return f"has only a git-lfs pointer as {name} (git lfs pull)"
        if name.endswith(".safetensors"):
            try:
                with safe_open(path, framework="numpy"):  # compares the sizes in the header with the file's
                    pass
            except (SafetensorError, OSError) as error:
                return f"has a damaged {name} ({error})"
    return None


def _place(folder: Path, pickles: list[str]) -> tuple[Path, store.Parts]:
    """(folder, parts) of the safe copy of some weights, both from the content of all that goes into it."""

    names = [name for name in (*CONFIGS, *pickles) if (folder / name).is_file()]
    parts = store.Parts(
        uses={}, inputs={name: files.sha256_of_file(folder / name) for name in names}, code={}, versions={}
    )
    return results_root() / ".models" / f"weights-{parts.fingerprint[:16]}", parts


def safe_copy(folder: Path, pickles: list[str], source: str) -> Path:
    """A folder with a model's config, and with its weights as one safetensors file; converted on the first call."""
    from safetensors.torch import save_file

    target, parts = _place(folder, pickles)

    def convert(partial: Path) -> None:
        print(f"{source}: converting the weights to safetensors, once")
        try:
            save_file(_tensors(folder, pickles, source), partial / "model.safetensors", metadata={"format": "pt"})
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        for name in names_in(folder).intersection(CONFIGS):
            shutil.copyfile(folder / name, partial / name)

    return store.make(target, parts, convert, f"safetensors of {source}")


def _tensors(folder: Path, pickles: list[str], source: str) -> dict[str, torch.Tensor]:
    """name -> tensor of all pickles, no two of which share memory. Only tensors are unpickled, and no code runs."""
    import torch

    tensors, storages = {}, set()
    for path in (folder / name for name in pickles if name.endswith(".bin")):
        try:
            with warnings.catch_warnings():  # on archives that are refused anyway
                warnings.simplefilter("ignore")
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            found = {name: value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
        except Exception as error:  # damaged files raise many kinds
            if code := re.search(r"GLOBAL [\w.]+|TorchScript", str(error)):
                text = f"holds code in {path.name} ({code[0]}), which is never run: take another model"
            else:
                strange = isinstance(error, pickle.UnpicklingError)  # torch's own advice would be to run it
                first = "" if strange else (str(error).strip().splitlines() or [type(error).__name__])[0]
                reason = first[:100] or "it holds something other than weights"
                text = f"has a damaged {path.name} ({reason}): {AGAIN}"
            raise DataError(f"model {source!r} {text}") from None
        for name, value in found.items():
            storage = value.untyped_storage().data_ptr()
            # Tied weights share memory, which safetensors refuses. Each name gets its own; loading ties them again.
            tensors[name] = (value.clone() if storage in storages else value).contiguous()
            storages.add(storage)
    if not tensors:
        raise DataError(f"model {source!r} has no tensor in {pickles[0]}: give a complete folder")
    return tensors
