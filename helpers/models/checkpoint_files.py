"""A model's files: which files of a folder or hub repository hold its weights, whether they are whole and safe.

Every model becomes a local folder with safetensors. A pickle (`.bin`, as OPT-350M's) can run code when it is opened:
here only tensors are read from it, once, into a copy in results/.models/, whose name is made from the pickle's content.
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
# Options of `hf download`: fetch a model without the weights for other libraries.
WITHOUT_OTHER_WEIGHTS = "--exclude '*.h5' --exclude '*.msgpack'"


def model_folder(source: str | Path) -> Path:
    """A local folder with a model's config and its weights as safetensors. source: a folder or a hub id.

    Raises DataError where the model is not on the hub, the hub cannot be reached, or files are damaged or unsafe;
    StageError for a full disk.
    """
    # Find or download the files, check them, convert pickles.
    folder = Path(source) if Path(source).is_dir() else _model_snapshot(str(source), with_weights=True)
    files = files_among(names_in(folder))
    if problem := weights_problem(folder, files):
        raise DataError(f"model {str(source)!r} {problem}: {AGAIN}")
    return safe_copy(folder, files, str(source)) if are_pickles(files) else folder


def tokenizer_folder(source: str | Path) -> Path:
    """A local folder with a model's config and tokenizer; no weights are downloaded. source: as for `model_folder`."""
    return Path(source) if Path(source).is_dir() else _model_snapshot(str(source), with_weights=False)


def _model_snapshot(name: str, *, with_weights: bool) -> Path:
    """The files of a hub repository in the local cache, downloaded where they are missing."""
    wanted = repository(name, "model")

    def choose(names: Collection[str]) -> list[str]:
        """Which of the repository's files to download."""
        found = files_among(names) if with_weights else []
        if "config.json" not in names or (with_weights and not found):
            needed = "config.json, or model.safetensors or pytorch_model.bin"
            raise DataError(f"{wanted} lacks {needed} on the hub: take another, {way_out(wanted)}")
        return [name for name in SMALL_FILES if name in names] + found

    def lacks(snapshot: Path) -> str | None:
        """What a cached copy lacks, in a few words; None where it is whole."""
        names = names_in(snapshot)
        if "config.json" not in names:
            return "lacks config.json"
        if with_weights:
            return weights_problem(snapshot, files_among(names))
        return None if any(needed <= names for needed in TOKENIZERS) else "lacks its tokenizer"

    return snapshot(wanted, choose, lacks, WITHOUT_OTHER_WEIGHTS)


# Names of weight files, the preferred first. No other pickle is read or downloaded: training_args.bin holds objects.
KINDS = (
    r"model\.safetensors",
    r"model-\d+-of-\d+\.safetensors|model\.safetensors\.index\.json",
    r"pytorch_model\.bin",
    r"pytorch_model-\d+-of-\d+\.bin|pytorch_model\.bin\.index\.json",
)
AGAIN = "fetch that file again (from the hub: hf download --force-download), or give a complete folder"
CONFIGS = ("config.json", "generation_config.json")  # what a model is loaded with, beside its weights


def names_in(folder: Path) -> set[str]:
    """Names of the files in a folder, without links to nothing."""
    return {path.name for path in folder.iterdir() if path.is_file()}


def files_among(names: Collection[str]) -> list[str]:
    """The weight files among the names of files: those of the first kind in KINDS that is there; [] without any."""
    for pattern in KINDS:
        found = [name for name in sorted(names) if re.fullmatch(pattern, name)]
        if found:
            return found
    return []


def are_pickles(files: list[str]) -> bool:
    """Whether weight files must be converted before they are used. files: as `files_among` finds them."""
    return bool(files) and files[0].startswith("pytorch_model")


def weights_problem(folder: Path, files: list[str]) -> str | None:
    """What is wrong with a folder's weights, in a few words; None if all are there and safetensors are whole.

    folder: the model's. files: names of its weight files, as `files_among` finds them.
    """
    from safetensors import SafetensorError, safe_open

    if not files:
        return "lacks weights (model.safetensors or pytorch_model.bin)"
    # Weights in several files: an index names them all.
    expected = set(files)
    for name in files:
        if name.endswith(".index.json"):
            expected.update(read_json(folder / name).get("weight_map", {}).values())
    for name in sorted(expected):
        path = folder / name
        if not path.is_file():
            return f"lacks {name}"
        with path.open("rb") as file:
            if file.read(20) == b"version https://git-":
                return f"has only a git-lfs pointer as {name} (git lfs pull)"
        # Opening safetensors compares the sizes in the header with the file's size.
        if name.endswith(".safetensors"):
            try:
                with safe_open(path, framework="numpy"):
                    pass
            except (SafetensorError, OSError) as error:
                return f"has a damaged {name} ({error})"
    return None


def _place(folder: Path, pickles: list[str]) -> tuple[Path, store.Parts]:
    """Where the safe copy of some weights is kept, and what it is made from: its name is made from their content."""
    inputs = {}
    for name in (*CONFIGS, *pickles):
        if (folder / name).is_file():
            inputs[name] = files.sha256_of_file(folder / name)
    parts = store.Parts(uses={}, inputs=inputs, code={}, versions={})
    return results_root() / ".models" / f"weights-{parts.fingerprint[:16]}", parts


def safe_copy(folder: Path, pickles: list[str], source: str) -> Path:
    """A folder with a model's config, and with its weights as one safetensors file; converted on the first call.

    folder, pickles: the model's folder and the names of its pickles. source: the model's name in messages. Raises
    DataError where a pickle is damaged or holds code.
    """
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
    """name -> tensor of all pickles, no two of which share memory."""
    tensors, storages = {}, set()
    for pickled in pickles:
        if not pickled.endswith(".bin"):
            continue
        for name, value in _unpickled(folder / pickled, source).items():
            # Tied weights share memory, which safetensors refuses. Copy them; loading the model ties them again.
            storage = value.untyped_storage().data_ptr()
            tensors[name] = (value.clone() if storage in storages else value).contiguous()
            storages.add(storage)
    if not tensors:
        raise DataError(f"model {source!r} has no tensor in {pickles[0]}: give a complete folder")
    return tensors


def _unpickled(path: Path, source: str) -> dict[str, torch.Tensor]:
    """name -> tensor of one pickle. Only tensors are read (weights_only); code in the file never runs."""
    import torch

    try:
        # Torch warns about archives that it then refuses.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        return {name: value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
    except Exception as error:  # damaged files raise many kinds of error
        raise DataError(f"model {source!r} {_pickle_problem(path.name, error)}") from None


def _pickle_problem(name: str, error: Exception) -> str:
    """What is wrong with a pickle: it holds code, or it is damaged."""
    if code := re.search(r"GLOBAL [\w.]+|TorchScript", str(error)):
        return f"holds code in {name} ({code[0]}), which is never run: take another model"
    # Torch's message for an unpickling error advises to run the file's code: leave it out.
    reason = ""
    if not isinstance(error, pickle.UnpicklingError):
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:100]
    return f"has a damaged {name} ({reason or 'it holds something other than weights'}): {AGAIN}"
