"""The store: folders that are complete or absent, each with a manifest that says what it was made from.

Such a folder is called a thing here: a stage of a run, an executed notebook, the results of a run, a part of
data_cache/. One rule holds for all: a thing is made again when its settings, its inputs, the code that makes it or the
versions of the libraries have changed, or when its files are damaged. The fingerprint is the hash of those four parts.

NAME/            the thing, with manifest.json: the parts, and sha256, size and time of every file
.NAME.partial/   one that was interrupted, handed to its builder again
.NAME.accepted   why a thing that is not up to date is used all the same (COURSE_ACCEPT_STALE=1)
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from helpers.core import files
from helpers.core.errors import StageError
from helpers.core.files import content_hash, files_in, read_json, sha256_of_json, write_json

MANIFEST = "manifest.json"
MARKER = ".fingerprint"  # file in a partial folder: fingerprint of the thing that was being built
ACCEPT_STALE = "COURSE_ACCEPT_STALE"  # environment variable: use things whose code or libraries alone have changed
MESSAGES = "COURSE_MESSAGES"  # environment variable: a file to which messages go, so that a notebook does not show them
OTHER_CODE = "(things made by other code)"  # entry in the code of a notebook that shows things accepted in that way
NOT_RECORDED = "its manifest does not say what it was made from"

_said: set[tuple[str, str]] = set()  # (folder, line): messages about accepted things, printed once a process


class Parts(NamedTuple):
    """What a thing is made from."""

    uses: dict[str, Any]  # settings and other JSON values
    inputs: dict[str, str]  # name -> hash of its content
    code: dict[str, str]  # source file -> hash; see `code`
    versions: dict[str, str]  # library -> version; and "processes", where several trained together

    @property
    def fingerprint(self) -> str:
        """One hash of all parts."""
        return files.sha256_of_json(self._asdict())


class Change(NamedTuple):
    """One difference between what a thing was made from and what it would be made from now."""

    kind: str  # "files", "uses", "inputs", "code" or "versions"
    text: str


# ------------------------------------------------------------------------------------------------ what is there


def files_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The file table of a manifest: name -> sha256, bytes and time; {} where the manifest is missing or damaged."""
    files = read_json(folder / MANIFEST).get("files")
    if not isinstance(files, dict) or not all(_is_entry(entry) for entry in files.values()):
        return {}
    return files


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("sha256"), str) and isinstance(entry.get("bytes"), int)


def entry_of(path: Path) -> dict[str, Any]:
    """How a file stands in a manifest: the sha256 of its content, its size in bytes and its time in nanoseconds."""
    stat = path.stat()
    return {"sha256": files.sha256_of_content(path), "bytes": stat.st_size, "time": stat.st_mtime_ns}


def damage(folder: Path, *, thoroughly: bool = False) -> str | None:
    """What is wrong with the files of a thing, in a few words; None if it is whole.

    Small files are hashed each time; large ones when their size or time differs from the record. thoroughly: hash large
    files anyway, once a session.
    """
    files = files_of(folder)
    if not files:
        return "its manifest is missing or damaged"
    for name, expected in files.items():
        if not (folder / name).is_file():
            return f"missing: {name}"
        if not _is_whole(folder / name, expected, thoroughly):
            return f"damaged: {name}"
    return None


def _is_whole(path: Path, expected: dict[str, Any], thoroughly: bool) -> bool:
    stat = path.stat()
    if stat.st_size != expected["bytes"] and path.suffix != ".gz":
        return False
    as_made = stat.st_size >= files.SMALL and stat.st_mtime_ns == expected.get("time")
    if as_made and not thoroughly and not files.was_hashed(path):
        return True
    return files.sha256_of_content(path) == expected["sha256"]


def is_current(folder: Path, fingerprint: str) -> bool:
    """True if the folder holds a whole thing with this fingerprint."""
    return files.read_json(folder / MANIFEST).get("fingerprint") == fingerprint and damage(folder) is None


def thing_with(path: Path) -> Path | None:
    """The thing that a path is, or is inside of; None for any other file or folder."""
    for place in (path, *path.parents[:3]):
        if "fingerprint" in files.read_json(place / MANIFEST):
            return place
    return None


def content_of(path: Path) -> str:
    """The hash of an input's content: for a thing, or a part of one, from its file table; else from the files."""
    thing = thing_with(path)
    files = files_of(thing) if thing else {}
    inside = path.relative_to(thing).as_posix() if thing else ""
    if inside in files:
        return files[inside]["sha256"]
    prefix = "" if inside == "." else f"{inside}/"
    own = sorted((name.removeprefix(prefix), e["sha256"]) for name, e in files.items() if name.startswith(prefix))
    return sha256_of_json(own) if own else content_hash(path)


# ---------------------------------------------------------------------------------------------- what has changed


def changes(record: dict[str, Any], parts: Parts) -> list[Change]:
    """How the parts in a manifest (record) differ from the present ones; a record of another shape is one change."""
    if not all(isinstance(record.get(kind), dict) for kind in Parts._fields):
        return [Change("files", NOT_RECORDED)]
    before, now = record, json.loads(json.dumps(parts._asdict()))  # a tuple becomes a list, as in the record
    differing = {kind: _differing(before[kind], now[kind]) for kind in Parts._fields}
    found = []
    if names := differing["uses"]:
        shown = [f"{name} {_value(before['uses'], name)} -> {_value(now['uses'], name)}" for name in names]
        found.append(Change("uses", f"settings changed: {_few(shown)}"))
    found += [Change("inputs", f"input {name} changed") for name in differing["inputs"]]
    found += [Change("code", text) for text in _code_changes(differing["code"], before["code"] | now["code"])]
    for name in differing["versions"]:
        old, new = (_value(values["versions"], name) for values in (before, now))
        found.append(Change("versions", f"{name} {old} -> {new}"))
    return found


def _differing(before: dict, now: dict) -> list[str]:
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _value(values: dict[str, Any], name: str) -> str:
    return str(values[name]) if name in values else "none"


def _few(texts: list[str], most: int = 3) -> str:
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more} more" if more > 0 else "")


def _code_changes(files: list[str], known: dict[str, str]) -> list[str]:
    """One line for each package whose code changed, with its modules; modules directly in helpers/ share a line."""
    by_package: dict[str, list[str]] = {}
    for file in files:
        package, _, name = file.rpartition("/")
        by_package.setdefault(package, []).append(name.removesuffix(".py"))
    lines = []
    for package, names in by_package.items():
        if OTHER_CODE in names:
            lines.append(f"made from things of other code ({known[OTHER_CODE]})")
        if own := [name for name in names if name != OTHER_CODE]:
            lines.append(f"{package} code changed since ({_few(own)})".lstrip())
    return lines


def told(found: list[Change]) -> str:
    """The first two changes and the number of the others, in one line."""
    more = len(found) - 2
    return "; ".join(change.text for change in found[:2]) + (f"; and {more} more" if more > 0 else "")


def reasons(folder: Path, parts: Parts) -> list[Change]:
    """Why the thing in a folder is not up to date, damage first; [] if it is up to date, or is not there."""
    if not folder.exists():
        return []
    problem = damage(folder)
    found = [Change("files", problem)] if problem else []
    return found + (changes(files.read_json(folder / MANIFEST), parts) if files_of(folder) else [])


def _say(line: str) -> None:
    """Print a line, or append it to the file that MESSAGES names: a notebook must not show what was there before."""
    if place := os.environ.get(MESSAGES):
        with open(place, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    else:
        print(line)


# ------------------------------------------------------------------------------------- things of other code, used


def accepts_stale() -> bool:
    """Whether things are used as they are when only code or library versions have changed since."""
    return os.environ.get(ACCEPT_STALE, "") not in ("", "0")


def accepted(things: Path) -> dict[str, str]:
    """Name -> reason of the things in a folder that are accepted although other code made them."""
    if not accepts_stale():
        return {}
    marks = sorted(things.glob(".*.accepted"))
    return {mark.name[1:].removesuffix(".accepted"): mark.read_text(encoding="utf-8") for mark in marks}


def usable(folder: Path, parts: Parts, what: str) -> bool:
    """True if the thing in a folder is up to date, or is accepted although it is not; then a line says so."""
    mark = _mark(folder)
    if is_current(folder, parts.fingerprint):
        mark.unlink(missing_ok=True)
        return True
    found = reasons(folder, parts) if accepts_stale() else []
    if not found or any(change.kind not in ("code", "versions") for change in found):
        return False
    line = told(found)
    with files.plain_disk_errors(f"accepting {what}"):
        mark.write_text(line, encoding="utf-8")
    if (str(folder), line) not in _said:
        _said.add((str(folder), line))
        _say(f"{what}: {line}; used as it is (--accept-stale)")
    return True


def _mark(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.accepted")


# ------------------------------------------------------------------------------------------------ making a thing


def make(
    folder: Path,
    parts: Parts,
    build: Callable[[Path], None],
    what: str,
    *,
    siblings: Iterable[Path] = (),
    again: bool = False,
    also: Callable[[], dict[str, str]] = dict,
) -> Path:
    """Make a thing unless it is up to date; returns its folder.

    build: fills the folder that it is given, where it may find what an interrupted build from the same parts left.
    what: its name in messages, such as "stage sft". siblings: folders that may hold the same thing; then it is linked
    instead of built. again: build even what is up to date. also: called after the build, adds to the recorded code.
    Raises StageError for a full disk, a folder that cannot be written, or a builder that makes no file.
    """
    if not again and usable(folder, parts, what):
        return folder
    with files.plain_disk_errors(f"building {what}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with files.one_at_a_time(folder.with_name(f".{folder.name}.lock"), what):
            if again or not usable(folder, parts, what):  # else: another process finished it while this one waited
                _fill(folder, parts, build, what, siblings, also)
    return folder


def _fill(folder, parts, build, what, siblings, also) -> None:
    """Link the thing from a sibling with the same fingerprint, or build it; say why, if an older one was there."""
    partial, why = folder.with_name(f".{folder.name}.partial"), told(reasons(folder, parts))
    if not is_current(partial, parts.fingerprint):  # else: it was stopped just before its last rename
        linked = next((other for other in siblings if _link_same(other, partial, parts.fingerprint)), None)
        if why:
            _say(f"{what}: {why}; {'taken from another run' if linked else 'building it again'}")
        if not linked:
            keep_or_clear(partial, parts.fingerprint)
            build(partial)
            seal(partial, folder.name, parts._replace(code=parts.code | also()))
    swap_in(partial, folder)
    _mark(folder).unlink(missing_ok=True)


def seal(folder: Path, name: str, parts: Parts) -> None:
    """Finish a built folder: delete checkpoints, push every file to disk, write the manifest."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    files = {}
    for relative, path in files_in(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[relative] = entry_of(path)
    if not files:
        raise StageError(f"{name} made no file: its builder must write into the folder it is given")
    record = {"name": name, "fingerprint": parts.fingerprint, **parts._asdict(), "files": files}
    write_json(folder / MANIFEST, record)
    (folder / MARKER).unlink(missing_ok=True)


def keep_or_clear(partial: Path, fingerprint: str) -> None:
    """Keep what an interrupted build with the same fingerprint left, else start with an empty folder."""
    marker = partial / MARKER
    if marker.is_file() and marker.read_text() == fingerprint:
        return
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    marker.write_text(fingerprint)


def _link_same(source: Path, target: Path, fingerprint: str) -> bool:
    return source != target and is_current(source, fingerprint) and link_tree(source, target)


def link_tree(source: Path, target: Path) -> bool:
    """Make `target` a copy of a thing by hard links where the disk has them; False if that failed or it is damaged."""

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
    return damage(target, thoroughly=True) is None


def swap_in(partial: Path, target: Path) -> None:
    """Rename a sealed partial folder to its final name; the folder that was there is removed afterwards."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    files.sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)
