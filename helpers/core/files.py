"""Files: content hashes, JSON that is whole or absent, locks, disk errors in one line, installed versions."""

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

SMALL = 1_000_000  # bytes; a smaller file is hashed each time it is looked at, a larger one once a session

_hashes: dict[tuple[str, int, int], str] = {}  # (path, size, time) of large files -> sha256


def sha256_of_json(value: Any) -> str:
    """sha256 of a JSON value in canonical form: the same whatever the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256_of_file(path: Path) -> str:
    """sha256 of a file's bytes, as hex."""
    key = _key(path)
    if key in _hashes:
        return _hashes[key]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if key[1] >= SMALL:
        _hashes[key] = found
    return found


def was_hashed(path: Path) -> bool:
    """Whether this session has read a large file as it is now: its hash is known and costs nothing."""
    return _key(path) in _hashes


def _key(path: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns


def sha256_of_content(path: Path) -> str:
    """sha256 of a file's bytes; of a .gz file what is packed in it, as the packing differs between Python versions."""
    if path.suffix != ".gz":
        return sha256_of_file(path)
    try:
        with gzip.open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (EOFError, gzip.BadGzipFile, zlib.error):  # damaged: it is not what it should be, whatever it is
        return sha256_of_file(path)


def content_hash(path: Path) -> str:
    """sha256 of a file's content, or of a folder's names and contents, hidden files and manifest aside."""
    if path.is_file():
        return sha256_of_content(path)
    return sha256_of_json(sorted((name, sha256_of_content(file)) for name, file in files_in(path)))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} if there is no such file or it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
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
    """Hold a lock file that the system frees when its process ends, however it ends; say so while waiting for it."""
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
    """Turn a full disk or a folder that cannot be written into one line; `mend` says how to write elsewhere."""
    full = "the disk is full: free some space and run again; what is finished is kept"
    try:
        yield
    except StageError:
        raise
    except OSError as error:
        where = f" ({Path(error.filename).name})" if isinstance(error.filename, str) else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StageError(f"{doing}: {full}") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise StageError(f"{doing}: {error.strerror.lower()}{where}: mend that or {mend}") from None
        raise
    except Exception as error:  # safetensors and torch wrap the system's message in their own types
        if "No space left" in str(error):
            raise StageError(f"{doing}: {full}") from None
        raise


def files_in(folder: Path) -> list[tuple[str, Path]]:
    """(name, path) of every file below a folder in order of name, without hidden ones and the folder's own manifest."""
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    shown = [name for name in found if not any(part.startswith(".") for part in name.parts)]
    return sorted((name.as_posix(), found[name]) for name in shown if name.as_posix() != "manifest.json")


def sync(folder: Path) -> None:
    """Push a folder's own entries to disk, after a rename in it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
