"""Where a model or a dataset really is: a local folder, a snapshot in the hub's cache, or a copy made safe here.

Everything ends as a local folder of safe files, so that nothing after this module asks a network or runs a pickle:

a folder             taken as it is, once its weights are seen to be whole
a hub id             its snapshot in the hub's cache; of what is missing there, only needed files are downloaded
weights as pickles   (`.bin`, as OPT-350M's) converted once to safetensors: results/.models/
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from . import folders, weights
from .errors import CourseError, DataError

ASK_SECONDS = 10  # how long the hub may take to say what a repository holds before it counts as out of reach
# In the order of downloading. What makes a tokenizer usable comes late and weights come last, so that a snapshot that
# an interruption left behind is not taken for a whole one.
SMALL_FILES = (
    *("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.json", "vocab.txt", "spm.model", "tokenizer.model", "vocab.json", "merges.txt"),
)
TOKENIZERS = ({"tokenizer.json"}, {"vocab.json", "merges.txt"}, {"vocab.txt"}, {"spm.model"}, {"tokenizer.model"})


class Repository(NamedTuple):
    """A repository on the hub. kind: model or dataset; revision: a commit (None: the newest).

    option: the setting that takes a folder instead. wanted: what `hf download` is told so that it fetches enough.
    """

    id: str
    kind: str
    revision: str | None
    option: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.kind} {self.id!r}" + (f" (revision {self.revision[:7]})" if self.revision else "")

    @property
    def way_out(self) -> str:
        return f"or give a folder: {self.option}"


class _OutOfReach(DataError):
    """The hub did not answer, or stopped."""


def model_folder(source: str | Path, revision: str | None = None) -> Path:
    """A local folder with a model's config and its weights, these as safetensors.

    source: a folder, or a hub id of which ``revision`` (a commit; None: the newest) is taken.
    Raises DataError where it is not on the hub, out of reach, damaged or unsafe; StageError for a full disk.
    """
    folder = Path(source) if Path(source).is_dir() else _model_snapshot(str(source), revision, with_weights=True)
    files = weights.files_among(weights.names_in(folder))
    if problem := weights.problem(folder, files):
        raise DataError(f"model {str(source)!r} {problem}: fetch that file again, or give a complete folder")
    return weights.safe_copy(folder, files, str(source)) if weights.are_pickles(files) else folder


def tokenizer_folder(source: str | Path, revision: str | None = None) -> Path:
    """A local folder with a model's config and tokenizer; no weights are downloaded. Otherwise as `model_folder`."""
    return Path(source) if Path(source).is_dir() else _model_snapshot(str(source), revision, with_weights=False)


def dataset_folder(dataset: str, revision: str | None, subset: str, split: str) -> Path:
    """A local folder that holds SUBSET/SPLIT.jsonl.gz (or .jsonl) of a dataset on the hub; only that is downloaded.

    Raises DataError where the file is not on the hub, out of reach or damaged; StageError for a full disk.
    """
    files = [f"{subset}/{split}.jsonl{ending}" for ending in (".gz", "")]
    repository = Repository(dataset, "dataset", revision, "dataset=PATH", f"{files[0]} --repo-type dataset")

    def choose(names: Collection[str]) -> list[str]:
        if not (found := [name for name in files if name in names]):
            there = ", ".join(sorted(name for name in names if ".jsonl" in name)) or "no .jsonl at all"
            raise DataError(f"{repository} has no {files[0]} (it holds {there}): change dataset or subsets")
        return found[:1]

    def lacks(cached: Path) -> str | None:
        found = next((name for name in files if (cached / name).is_file()), None)
        if found is None:
            return f"lacks {files[0]}"
        return None if weights.is_intact(cached / found) else f"has a damaged {found}"

    return _snapshot(repository, choose, lacks)


def _model_snapshot(name: str, revision: str | None, *, with_weights: bool) -> Path:
    repository = Repository(
        name, "model", revision, "policy=PATH or reward_model=PATH", "--exclude '*.h5' --exclude '*.msgpack'"
    )

    def choose(names: Collection[str]) -> list[str]:
        found = weights.files_among(names) if with_weights else []
        if "config.json" not in names or (with_weights and not found):
            needed = "config.json, or model.safetensors or pytorch_model.bin"
            raise DataError(f"{repository} lacks {needed} on the hub: take another, {repository.way_out}")
        return [name for name in SMALL_FILES if name in names] + found

    return _snapshot(repository, choose, lambda cached: _lacks(cached, with_weights))


def _lacks(snapshot: Path, with_weights: bool) -> str | None:
    """What a model's snapshot in the cache still needs, in a few words; None if nothing."""
    names = weights.names_in(snapshot)
    if "config.json" not in names:
        return "lacks config.json"
    files = weights.files_among(names) if with_weights else []
    checked = [name for name in SMALL_FILES if name in names]
    if weights.are_pickles(files) and not weights.is_converted(snapshot, files):
        checked += files  # read in full, but only once
    if damaged := next((name for name in checked if not weights.is_intact(snapshot / name)), None):
        return f"has a damaged {damaged}"
    if with_weights:
        return weights.problem(snapshot, files)
    return None if any(needed <= names for needed in TOKENIZERS) else "lacks its tokenizer"


# ------------------------------------------------------------------------------------------------------- from the hub


def _snapshot(
    repository: Repository, choose: Callable[[Collection[str]], list[str]], lacks: Callable[[Path], str | None]
) -> Path:
    """The folder of a repository in the hub's cache; what it lacks is downloaded first, if that is allowed.

    choose: the files to have, among all names at that revision. lacks: what a folder still needs; None if nothing.
    """
    from huggingface_hub import constants

    cached = _cached(repository)
    problem = lacks(cached) if cached else "is not"
    offline = constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE") == "1"
    if problem is None and (repository.revision or offline):  # a commit never changes: no need to ask
        return cached
    if offline:
        command = f"hf download {repository.id}{f' --revision {repository.revision}' if repository.revision else ''}"
        raise DataError(
            f"{repository} {problem} in the hub's cache ({constants.HF_HUB_CACHE}{_others(repository)}), and "
            f"HF_HUB_OFFLINE forbids to download: unset it, or run `{command} {repository.wanted}` where there is a "
            f"network, {repository.way_out}"
        )
    try:
        return _download(repository, choose, cached, whole=problem is None)
    except _OutOfReach as error:
        if problem is not None:
            raise DataError(error) from None
        print(f"{repository}: the hub cannot be reached; the newest revision in the cache is used")
        return cached


def _cached(repository: Repository) -> Path | None:
    """The folder of exactly this revision in the hub's cache, whole or not; None without one."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    what = {"repo_type": repository.kind, "revision": repository.revision}
    try:
        found = snapshot_download(repository.id, **what, local_files_only=True)
    except LocalEntryNotFoundError as error:  # not there, or without the files that nobody asked for
        found = getattr(error, "snapshot_path", None)
    except HFValidationError:
        raise DataError(f"{repository} cannot be a name on the hub: mend it, {repository.way_out}") from None
    return Path(found) if found else None


def _others(repository: Repository) -> str:
    """A remark on the other revisions in the cache, which do not count; "" without any."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    place = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository.id, repo_type=repository.kind)
    others = sorted(path.name[:7] for path in place.glob("snapshots/*") if path.name != repository.revision)
    return f"; revision {', '.join(others)} is there, but is another" if others else ""


def _download(repository: Repository, choose, cached: Path | None, *, whole: bool) -> Path:
    """Ask the hub what it has, download what is needed, compare each file with the hash that names it."""
    from huggingface_hub import HfApi, hf_hub_download

    what = {"repo_type": repository.kind, "revision": repository.revision}
    try:
        with _calm(), folders.plain_disk_errors(f"downloading {repository.id}", "set HF_HOME"):
            # One question without retries, so that a wrong name or a dead line is known at once.
            info = HfApi().repo_info(repository.id, **what, files_metadata=True, timeout=ASK_SECONDS)
            if whole and info.sha == cached.name:
                return cached
            sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
            files = choose(sizes)
            new = [name for name in files if not (cached and cached.name == info.sha and (cached / name).is_file())]
            print(f"downloading {repository}, {sum(sizes[name] for name in new) / 1e6:.1f} MB")
            for name in files:
                path = Path(hf_hub_download(repository.id, name, **what))
                if not weights.is_intact(path):
                    path = Path(hf_hub_download(repository.id, name, **what, force_download=True))
                if not weights.is_intact(path):
                    raise DataError(f"{repository}: {name} arrives damaged from the hub: try again later")
    except CourseError:
        raise
    except Exception as error:  # the hub, the line and the libraries between them raise many kinds
        raise _in_one_line(error, repository) from None
    return path.parents[files[-1].count("/")]


def _in_one_line(error: BaseException, repository: Repository) -> DataError:
    """What went wrong with a download, and the ways out."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__  # the library wraps what the hub said in "not in the cache either"
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = (str(error).strip().splitlines() or [""])[0][:120] or type(error).__name__
    if isinstance(error, errors.GatedRepoError):
        text = "is gated: accept its terms on its page on the hub and log in (hf auth login, or HF_TOKEN)"
    elif isinstance(error, errors.RevisionNotFoundError):
        text = f"has no revision {repository.revision or 'main'} on the hub: get a newer version of this course"
    elif isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        text = "is not on the hub, or not for you: mend the name; if it is private or your token is old, hf auth login"
    elif status:
        text = f"is refused by the hub ({reason}): try again later"
    else:
        xet = " with HF_HUB_DISABLE_XET=1" if "xet" in f"{type(error)} {error}".lower() else ""
        text = f"cannot be fetched from the hub ({reason}): check the connection and run again{xet}"
        return _OutOfReach(f"{repository} {text}, {repository.way_out}")
    return DataError(f"{repository} {text}, {repository.way_out}")


@contextmanager
def _calm() -> Iterator[None]:
    """Keep the hub library's warnings back: what matters is said in one line."""
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
