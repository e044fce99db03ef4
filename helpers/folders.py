"""Folders that are whole or absent: content hashes, manifests, locks and renames under the stages of a run."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from helpers.errors import StageError

MANIFEST = "manifest.json"
MARKER = ".fingerprint"  # in a partial folder: what it was being built for
SMALL = 1_000_000  # bytes; a smaller file's sha256 is checked each time, a larger one's size only

_hashes: dict[tuple[str, int, int], str] = {}  # (path, size, mtime) -> sha256, so that a model is read once a session


def sha256_of_json(value: Any) -> str:
    """sha256 of a JSON value in canonical form: the same whatever the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256_of_file(path: Path) -> str:
    """sha256 of a file's content, as hex."""
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _hashes:
        with path.open("rb") as file:
            _hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hashes[key]


def content_hash(path: Path) -> str:
    """A stage folder's fingerprint; else sha256 of a file, or of a folder's names and contents, hidden files aside."""
    if path.is_file():
        return sha256_of_file(path)
    if fingerprint := read_json(path / MANIFEST).get("fingerprint"):
        return fingerprint
    return sha256_of_json([(name, sha256_of_file(file)) for name, file in _files(path)])


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} if there is no such file or it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
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


def versions() -> dict[str, str | None]:
    """Installed versions of the libraries that results depend on, read without importing them."""

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return {name: version(name) for name in ("torch", "transformers", "trl", "peft", "datasets", "ctranslate2")}


def seal(folder: Path, record: dict[str, Any]) -> None:
    """Finish a built folder: drop checkpoints, push every file to disk, write the manifest with each sha256."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    files = {}
    for name, path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[name] = {"sha256": sha256_of_file(path), "bytes": path.stat().st_size}
    if not files:
        raise StageError(f"stage {record['name']} made no file: its builder must write into the folder it is given")
    write_json(folder / MANIFEST, record | {"versions": versions(), "files": files})
    (folder / MARKER).unlink(missing_ok=True)


def damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder, in a few words; None if it is whole."""
    files = read_json(folder / MANIFEST).get("files")
    if not files:
        return "its manifest is missing or damaged"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != expected["bytes"] or (size < SMALL and sha256_of_file(path) != expected["sha256"]):
            return f"{name} is damaged"
    return None


def is_current(folder: Path, fingerprint: str) -> bool:
    """True if the folder is sealed with this fingerprint and whole."""
    return read_json(folder / MANIFEST).get("fingerprint") == fingerprint and damage(folder) is None


def keep_or_clear(partial: Path, fingerprint: str) -> None:
    """Keep what an interrupted build with the same fingerprint left, else start with an empty folder."""
    marker = partial / MARKER
    if marker.is_file() and marker.read_text() == fingerprint:
        return
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    marker.write_text(fingerprint)


def link_tree(source: Path, target: Path) -> bool:
    """Make `target` a copy of a sealed folder by hard links where the disk has them; False if that failed."""

    def link(old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)

    shutil.rmtree(target, ignore_errors=True)
    try:
        shutil.copytree(source, target, copy_function=link)
    except OSError:  # another process is replacing the source
        return False
    return damage(target) is None


def swap_in(partial: Path, target: Path) -> None:
    """Rename a sealed partial folder to its final name; the folder that was there is removed afterwards."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    _sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


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
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise StageError(f"{doing}: {error.strerror.lower()}{where}: mend that or {mend}") from None
        raise
    except Exception as error:  # safetensors and torch wrap the system's message in their own types
        if "No space left" in str(error):
            raise StageError(f"{doing}: {full}") from None
        raise


def _files(folder: Path) -> list[tuple[str, Path]]:
    """(name, path) of every file below a folder in order of name, without hidden ones and the folder's own manifest."""
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    shown = [name for name in sorted(found) if not any(part.startswith(".") for part in name.parts)]
    return [(name.as_posix(), found[name]) for name in shown if name.as_posix() != MANIFEST]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
