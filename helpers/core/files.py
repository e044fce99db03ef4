"""Files: hashes of their content, JSON that is never half written, locks, disk errors in one line, library versions."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from helpers.core.errors import StageError

SMALL = 1_000_000  # bytes; a smaller file is hashed at each check, a larger one once a session

_hashes: dict[tuple[str, int, int], str] = {}  # (path, size, time) of large files -> sha256


def sha256_of_json(value: Any) -> str:
    """sha256 of a JSON value in canonical form: the same whatever the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256_of_file(path: Path) -> str:
    """sha256 of a file's bytes, as hex. Of a large file it is remembered until size or time of the file change."""
    key = _key(path)
    if key in _hashes:
        return _hashes[key]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if key[1] >= SMALL:
        _hashes[key] = found
    return found


def was_hashed(path: Path) -> bool:
    """Whether the hash of a large file, as it is now, is remembered from this session, so that it costs nothing."""
    return _key(path) in _hashes


def _key(path: Path) -> tuple[str, int, int]:
    """Path, size in bytes and time in nanoseconds: as long as these stay, the content counts as the same."""
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns


def sha256_of_content(path: Path) -> str:
    """sha256 of a file's content; of a .gz file the unpacked content, as Python versions pack differently."""
    if path.suffix != ".gz":
        return sha256_of_file(path)
    try:
        with gzip.open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (EOFError, gzip.BadGzipFile, zlib.error):  # damaged: any hash will do that differs from the right one
        return sha256_of_file(path)


def content_hash(path: Path) -> str:
    """sha256 of a file's content; of a folder, of the names and contents of the files that `files_in` lists."""
    if path.is_file():
        return sha256_of_content(path)
    contents = [(name, sha256_of_content(file)) for name, file in files_in(path)]
    return sha256_of_json(sorted(contents))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} if there is no such file or it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that other processes see the old file or the new one, never half of it.

    Raises ValueError for NaN and infinity, which JSON does not have.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Write beside it, push to disk, then rename.
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


@cache
def version(distribution: str) -> str | None:
    """The installed version of a library, read without importing it; None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Installed versions of the libraries that results depend on most."""
    return {name: version(name) for name in ("torch", "transformers", "trl", "peft", "datasets", "ctranslate2")}


@contextmanager
def one_at_a_time(lock: Path, what: str) -> Iterator[None]:
    """While inside, hold a lock file; print a line when another process holds it, and wait for that one.

    what: names the thing in that line. The system frees the lock when its process ends, however it ends.
    """
    from filelock import FileLock, Timeout

    guard = FileLock(lock)
    try:
        guard.acquire(timeout=0.1)
    except Timeout:
        print(f"{what}: another process is building it, waiting for that one to finish")
        guard.acquire()
    try:
        yield
    finally:
        guard.release()


@contextmanager
def plain_disk_errors(doing: str, mend: str = "set COURSE_RESULTS") -> Iterator[None]:
    """Turn the errors of a full disk and of a folder that cannot be written into a StageError of one line.

    doing: what was being done, with which the line begins. mend: how to write elsewhere.
    """
    full = "the disk is full: free some space and run again; what is finished is kept"
    try:
        yield
    except StageError:
        raise
    except OSError as error:
        where = f" ({Path(error.filename).name})" if isinstance(error.filename, str) else ""
        # A full disk, or a used-up quota.
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StageError(f"{doing}: {full}") from None
        # No permission, a read-only disk, or a file where a folder should be.
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise StageError(f"{doing}: {error.strerror.lower()}{where}: mend that or {mend}") from None
        raise
    except Exception as error:  # safetensors and torch wrap the system's message in their own types
        if "No space left" in str(error):
            raise StageError(f"{doing}: {full}") from None
        raise


def files_in(folder: Path) -> list[tuple[str, Path]]:
    """(name, path) of every file below a folder in order of name.

    Names are relative to the folder. Hidden files, those in hidden folders and the folder's own manifest are left out.
    """
    found = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not is_hidden and name.as_posix() != "manifest.json":
            found.append((name.as_posix(), path))
    return sorted(found)


def sync(folder: Path) -> None:
    """Push a folder's list of entries to disk, so that a rename in it survives a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
