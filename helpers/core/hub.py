"""Repositories on the Hugging Face hub as local folders in the hub's cache, downloaded where that is allowed.

huggingface_hub does the download itself (resuming, retries, checks of size). Decided here are which files are taken, at
which revision, and what the error message says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from helpers.core.errors import CourseError, DataError
from helpers.core.files import plain_disk_errors
from helpers.core.repositories import Repository

ASK_SECONDS = 10  # how long the hub may take to list a repository's files before it counts as out of reach
# Files that come with any model: a cached snapshot must have those of them that the repository holds.
SMALL_FILES = (
    *("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.json", "vocab.txt", "spm.model", "tokenizer.model", "vocab.json", "merges.txt"),
)


class _OutOfReach(DataError):
    """The hub did not answer, or stopped."""


def snapshot(
    asked: Repository,
    choose: Callable[[Collection[str]], list[str]],
    lacks: Callable[[Path], str | None],
    download_options: str,
) -> Path:
    """The folder of a repository in the hub's cache; files that it lacks are downloaded first.

    asked: the repository and its revision. choose: names of all files at that revision -> names of the files to take.
    lacks: folder -> what it still needs, in a few words, or None. download_options: arguments of `hf download` for the
    message that tells how to fetch the files by hand.

    Raises DataError when files are lacking and downloads are forbidden (HF_HUB_OFFLINE) or fail; StageError for a full
    disk. Without a fixed revision and without an answer of the hub, the newest revision in the cache is taken.
    """
    from huggingface_hub import constants

    cached = _cached(asked)
    problem = lacks(cached) if cached else "is not whole"
    offline = constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE") == "1"
    # Take the cache where the hub cannot hold anything else: a commit never changes.
    if problem is None and (asked.revision or offline):
        return cached
    if offline:
        revision = f" --revision {asked.revision}" if asked.revision else ""
        raise DataError(
            f"{asked} {problem} in the hub's cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE forbids to download: "
            f"unset it, or run `hf download {asked.id}{revision} {download_options}` where there is a network, "
            f"{way_out(asked)}"
        )
    # Download; without the hub a whole snapshot in the cache will do.
    try:
        return _download(asked, choose, cached if problem is None else None)
    except _OutOfReach as error:
        if problem is not None:
            raise DataError(error) from None  # the name that a notebook shows
        print(f"{asked}: the hub cannot be reached; the newest revision in the cache is used")
        return cached


def way_out(asked: Repository) -> str:
    """The end of an error message: which setting takes a folder in place of the repository."""
    return f"or give a folder: {asked.option}"


def _cached(asked: Repository) -> Path | None:
    """The folder of this revision in the hub's cache; None where it is not there or lacks some of SMALL_FILES."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    what = {"repo_type": asked.kind, "revision": asked.revision, "allow_patterns": SMALL_FILES}
    try:
        return Path(snapshot_download(asked.id, **what, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError:
        raise DataError(f"{asked} cannot be a name on the hub: mend it, {way_out(asked)}") from None


def _download(asked: Repository, choose: Callable[[Collection[str]], list[str]], whole: Path | None) -> Path:
    """List the files on the hub and download the chosen ones; returns the folder.

    whole: a snapshot in the cache with all files, taken if it is the newest revision; None if there is none.
    """
    from huggingface_hub import HfApi, snapshot_download

    what = {"repo_type": asked.kind, "revision": asked.revision}
    try:
        with plain_disk_errors(f"downloading {asked.id}", "set HF_HOME"):
            # One request without retries, so that a wrong name or a missing network is known at once.
            info = HfApi().repo_info(asked.id, **what, files_metadata=True, timeout=ASK_SECONDS)
            if whole and info.sha == whole.name:
                return whole
            # The files to take, with their size for the reader.
            sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
            files = choose(sizes)
            print(f"downloading {asked}, {sum(sizes[name] for name in files) / 1e6:.1f} MB in all")
            return Path(snapshot_download(asked.id, **what, allow_patterns=files))
    except CourseError:
        raise
    except Exception as error:  # hub, network and the libraries for them raise many kinds
        raise _in_one_line(error, asked) from None


def _in_one_line(error: BaseException, asked: Repository) -> DataError:
    """The error for a download that failed: what went wrong, and what the reader can do."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__  # the library wraps what the hub said in "not in the cache either"
    # What the hub or the network said.
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = (str(error).strip().splitlines() or [""])[0][:120] or type(error).__name__
    # What that means for the reader.
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
        return _OutOfReach(f"{asked} {text}, {way_out(asked)}")
    return DataError(f"{asked} {text}, {way_out(asked)}")
