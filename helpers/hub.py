"""Where a model or a dataset really is: a local folder, a snapshot in the hub's cache, or a copy made safe here.

Everything ends as a local folder of safe files, so that nothing after this module asks a network or runs a pickle:

a folder             taken as it is, once its weights are seen to be whole
a hub id             its snapshot in the hub's cache; of what is missing there, only needed files are downloaded
weights as pickles   (`.bin`, as OPT-350M's) converted once to safetensors: results/.models/

Downloading itself (resuming, retries, checks of size) is huggingface_hub's work. Decided here are the files to take,
the revision, and what a reader is told when it fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from . import folders, weights
from .errors import CourseError, DataError
from .repositories import Repository, repository

ASK_SECONDS = 10  # how long the hub may take to say what a repository holds before it counts as out of reach
SMALL_FILES = (
    *("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.json", "vocab.txt", "spm.model", "tokenizer.model", "vocab.json", "merges.txt"),
)
TOKENIZERS = ({"tokenizer.json"}, {"vocab.json", "merges.txt"}, {"vocab.txt"}, {"spm.model"}, {"tokenizer.model"})
# Options of `hf download` with which it fetches enough of a model and not the weights of other libraries.
WITHOUT_OTHER_WEIGHTS = "--exclude '*.h5' --exclude '*.msgpack'"


class _OutOfReach(DataError):
    """The hub did not answer, or stopped."""


def model_folder(source: str | Path) -> Path:
    """A local folder with a model's config and its weights, these as safetensors. source: a folder or a hub id.

    Raises DataError where it is not on the hub, out of reach, damaged or unsafe; StageError for a full disk.
    """
    folder = Path(source) if Path(source).is_dir() else _model_snapshot(str(source), with_weights=True)
    files = weights.files_among(weights.names_in(folder))
    if problem := weights.problem(folder, files):
        raise DataError(f"model {str(source)!r} {problem}: {weights.AGAIN}")
    return weights.safe_copy(folder, files, str(source)) if weights.are_pickles(files) else folder


def tokenizer_folder(source: str | Path) -> Path:
    """A local folder with a model's config and tokenizer; no weights are downloaded. Otherwise as `model_folder`."""
    return Path(source) if Path(source).is_dir() else _model_snapshot(str(source), with_weights=False)


def dataset_folder(dataset: str, subset: str, split: str) -> Path:
    """A local folder that holds SUBSET/SPLIT.jsonl.gz (or .jsonl) of a dataset on the hub; only that is downloaded.

    Raises DataError where the file is not on the hub or out of reach; StageError for a full disk.
    """
    asked, wanted = repository(dataset, "dataset"), [f"{subset}/{split}.jsonl{ending}" for ending in (".gz", "")]

    def choose(names: Collection[str]) -> list[str]:
        if found := [name for name in wanted if name in names]:
            return found[:1]
        there = ", ".join(sorted(name for name in names if ".jsonl" in name)) or "no .jsonl at all"
        raise DataError(f"{asked} has no {wanted[0]} (it holds {there}): change dataset or subsets")

    def lacks(snapshot: Path) -> str | None:
        return None if any((snapshot / name).is_file() for name in wanted) else f"lacks {wanted[0]}"

    return _snapshot(asked, choose, lacks, f"{wanted[0]} --repo-type dataset")


def _model_snapshot(name: str, *, with_weights: bool) -> Path:
    asked = repository(name, "model")

    def choose(names: Collection[str]) -> list[str]:
        found = weights.files_among(names) if with_weights else []
        if "config.json" not in names or (with_weights and not found):
            needed = "config.json, or model.safetensors or pytorch_model.bin"
            raise DataError(f"{asked} lacks {needed} on the hub: take another, {_way_out(asked)}")
        return [name for name in SMALL_FILES if name in names] + found

    def lacks(snapshot: Path) -> str | None:
        names = weights.names_in(snapshot)
        if "config.json" not in names:
            return "lacks config.json"
        if with_weights:
            return weights.problem(snapshot, weights.files_among(names))
        return None if any(needed <= names for needed in TOKENIZERS) else "lacks its tokenizer"

    return _snapshot(asked, choose, lacks, WITHOUT_OTHER_WEIGHTS)


# ------------------------------------------------------------------------------------------------------- from the hub


def _snapshot(
    asked: Repository,
    choose: Callable[[Collection[str]], list[str]],
    lacks: Callable[[Path], str | None],
    download_options: str,
) -> Path:
    """The folder of a repository in the hub's cache; what it lacks is downloaded first, if that is allowed.

    choose: the files to have, among all names at that revision. lacks: what a folder still needs, in a few words; None
    if nothing. download_options: what `hf download` is told so that it fetches enough.
    """
    from huggingface_hub import constants

    cached = _cached(asked)
    problem = lacks(cached) if cached else "is not whole"
    offline = constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE") == "1"
    if problem is None and (asked.revision or offline):  # a commit never changes: no need to ask
        return cached
    if offline:
        revision = f" --revision {asked.revision}" if asked.revision else ""
        raise DataError(
            f"{asked} {problem} in the hub's cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE forbids to download: "
            f"unset it, or run `hf download {asked.id}{revision} {download_options}` where there is a network, "
            f"{_way_out(asked)}"
        )
    try:
        return _download(asked, choose, cached if problem is None else None)
    except _OutOfReach as error:
        if problem is not None:
            raise DataError(error) from None  # the name that a notebook shows
        print(f"{asked}: the hub cannot be reached; the newest revision in the cache is used")
        return cached


def _way_out(asked: Repository) -> str:
    return f"or give a folder: {asked.option}"


def _cached(asked: Repository) -> Path | None:
    """The folder of exactly this revision in the hub's cache; None without one, or where small files are missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    what = {"repo_type": asked.kind, "revision": asked.revision, "allow_patterns": SMALL_FILES}
    try:
        return Path(snapshot_download(asked.id, **what, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError:
        raise DataError(f"{asked} cannot be a name on the hub: mend it, {_way_out(asked)}") from None


def _download(asked: Repository, choose: Callable[[Collection[str]], list[str]], whole: Path | None) -> Path:
    """Ask the hub what it has, and download what is needed. whole: a snapshot that is taken if it is the newest."""
    from huggingface_hub import HfApi, snapshot_download

    what = {"repo_type": asked.kind, "revision": asked.revision}
    try:
        with folders.plain_disk_errors(f"downloading {asked.id}", "set HF_HOME"):
            # One question without retries, so that a wrong name or a dead line is known at once.
            info = HfApi().repo_info(asked.id, **what, files_metadata=True, timeout=ASK_SECONDS)
            if whole and info.sha == whole.name:
                return whole
            sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
            files = choose(sizes)
            print(f"downloading {asked}, {sum(sizes[name] for name in files) / 1e6:.1f} MB in all")
            return Path(snapshot_download(asked.id, **what, allow_patterns=files))
    except CourseError:
        raise
    except Exception as error:  # the hub, the line and the libraries between them raise many kinds
        raise _in_one_line(error, asked) from None


def _in_one_line(error: BaseException, asked: Repository) -> DataError:
    """What went wrong with a download, and the ways out."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__  # the library wraps what the hub said in "not in the cache either"
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = (str(error).strip().splitlines() or [""])[0][:120] or type(error).__name__
    if isinstance(error, errors.GatedRepoError):
        text = "is gated: accept its terms on its page on the hub and log in (hf auth login, or HF_TOKEN)"
    elif isinstance(error, errors.RevisionNotFoundError):
        text = f"has no revision {asked.revision or 'main'} on the hub: get a newer version of this course"
    elif isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        text = "is not on the hub, or not for you: mend the name; if it is private or your token is old, hf auth login"
    elif status:
        text = f"is refused by the hub ({reason}): try again later"
    else:
        text = f"cannot be fetched from the hub ({reason}): check the connection and run again"
        return _OutOfReach(f"{asked} {text}, {_way_out(asked)}")
    return DataError(f"{asked} {text}, {_way_out(asked)}")
