"""The record of a command that works through a folder: what it was told, and what it has done.

`manifest.jsonl` in the output folder: the first line holds the settings, every further line one
finished file. A rerun with the same settings goes on; with other settings it is refused, so that
no folder holds results of two kinds. Whether a file was done before is told by its content.

A command holds `.lock` while it works, and no other one may. Of several processes of one command
each writes a file of its own, `manifest.jsonl` the first, which has the lock, `manifest.1.jsonl`
and so on the others; the next command on the folder begins by moving their lines into the first.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from davi.system.errors import InputError
from davi.system.files import (
    append_json,
    folder_lock,
    has_content,
    make_folder,
    parse_json_object,
    remove_leftovers,
    write_text,
)
from davi.system.world import ONE_PROCESS, World

MANIFEST = "manifest.jsonl"
OTHER_MANIFEST = re.compile(r"manifest\.\d+\.jsonl")
BUSY = "another command is working there; wait for it, or choose another --output"
LONGEST_LINE = 1 << 20  # characters
_SHA256 = re.compile(r"[0-9a-f]{64}")
PLACE_BYTES = 8  # of the hash of a path


class Ledger(contextlib.AbstractContextManager):
    """Opens or creates the record of an output folder, which is this command's until it is closed.

    Args:
        folder: the output folder.
        settings: whatever determines the results, as plain JSON values.
        source: the folder that is worked through, if it is one.
        world: the processes that share the work, if there are several; all must call, and none may
            go on working when the first has closed it.

    Raises:
        InputError: the folder is not writable or in use, holds something else, was written with
            other settings, or lies inside the source, where results would become input.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        source: Path | None = None,
        world: World = ONE_PROCESS,
    ) -> None:
        self.folder = folder
        self.path = _manifest_of(folder, world.rank)
        self._lock = contextlib.ExitStack()
        world.on_first(lambda: self._prepare(settings, source, world.size))
        # {name: (content, source)} as hashes, as small as it gets: there may be a million.
        self._done = {
            entry["name"]: _content(entry) + _place(entry["source"])
            for entry in read_entries(folder)
        }

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _prepare(self, settings: dict[str, Any], source: Path | None, processes: int) -> None:
        """Checks that the folder may be written to, and brings its record into one file."""
        if source is not None:
            require_outside(self.folder, source)
        _is_begun(self.folder)  # before anything is written there
        make_folder(self.folder)
        with contextlib.ExitStack() as stack:
            stack.enter_context(folder_lock(self.folder, BUSY))
            if _is_begun(self.folder):
                self._go_on(settings)
            else:
                write_text(self.path, json.dumps(settings) + "\n", durable=True)
            for rank in range(1, processes):
                if has_content(other := _manifest_of(self.folder, rank)):
                    raise InputError(f"{other}: is none of davi, which needs the name; rename it")
            self._lock = stack.pop_all()

    def _go_on(self, settings: dict[str, Any]) -> None:
        """Takes up what an earlier command of these settings has done."""
        if not (before := read_settings(self.folder)):
            raise InputError(
                f"{self.path}: its first line does not say what made this folder; choose another "
                "--output"
            )
        now = json.loads(json.dumps(settings))
        if differing := differences(before, now):
            raise InputError(
                f"{self.folder}: was written with other settings ({'; '.join(differing)}); "
                "choose another --output"
            )
        _end_line(self.path)
        _absorb_others(self.path)
        remove_leftovers(self.folder)

    def is_done(self, name: str, source: Path, results: Iterable[Path], **hashes: str) -> bool:
        """Returns whether an earlier command finished a file of this name and content.

        Its results must still be in place.

        Args:
            name: of the file, by which its results are called.
            source: the file.
            results: all that is made of it.
            hashes: `sha256` of its content, and `mask_sha256` of a mask of its own.

        Raises:
            InputError: the results in place are those of another file.
        """
        done, content, results = self._done.get(name, b""), _content(hashes), list(results)
        if done[:-PLACE_BYTES] == content:
            return all(map(has_content, results))
        if done and done[-PLACE_BYTES:] != _place(source) and any(map(has_content, results)):
            raise InputError(another_source(source, self.folder))
        return False

    def record(self, name: str, source: Path, **facts: Any) -> None:
        """Notes that a file is finished; to be called after its results are on disk.

        Args:
            name: of the file, as in `is_done`.
            source: the file.
            facts: the hashes of `is_done`, and what else is to be known of it, plain JSON values.
        """
        append_json(self.path, {"name": name, "source": os.path.abspath(source), **facts})


def another_source(source: Path, folder: Path) -> str:
    """Returns why a file is not worked on whose name belongs to another one in a folder."""
    return (
        f"{source}: {folder} holds what another file of this name became, which would be lost; "
        "choose another --output"
    )


def is_from(entry: dict[str, Any], source: Path) -> bool:
    """Returns whether an entry is about a file at this place, whatever its content was."""
    return os.path.abspath(entry["source"]) == os.path.abspath(source)


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Returns "key: old -> new" of all that differs between two nested mappings."""
    found = []
    for key in before | now:
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {old!r} -> {new!r}")
    return found


def require_outside(folder: Path, source: Path) -> None:
    """Refuses an output folder inside the source, where results would become input.

    Raises:
        InputError: it is.
    """
    if folder.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{folder}: lies inside the input {source}; choose another --output")


def read_entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Yields what was recorded of each finished file of an output folder, oldest first.

    What is no such record is passed over: a line cut off by a crash, settings written twice by two
    commands that began together, lines of another program. At worst a file is done once more.
    """
    with open(folder / MANIFEST, encoding="utf-8", errors="replace") as stream:
        stream.readline()  # the settings
        yield from filter(_is_entry, map(parse_json_object, stream))


def read_settings(folder: Path) -> dict[str, Any]:
    """Returns the settings an output folder was written with; {} if it is none or damaged."""
    path = folder / MANIFEST
    return parse_json_object(_first_line(path)) if path.is_file() else {}


def _manifest_of(folder: Path, rank: int) -> Path:
    return folder / (f"manifest.{rank}.jsonl" if rank else MANIFEST)


def _is_entry(value: dict[str, Any]) -> bool:
    """Whether an object is the record of a finished file."""
    texts = isinstance(value.get("name"), str) and isinstance(value.get("source"), str)
    hashes = [str(value[key]) for key in ("sha256", "mask_sha256") if key in value]
    return texts and "sha256" in value and all(map(_SHA256.fullmatch, hashes))


def _content(hashes: dict[str, Any]) -> bytes:
    return bytes.fromhex(hashes["sha256"] + hashes.get("mask_sha256", ""))


def _place(source: Path | str) -> bytes:
    path = os.fsencode(os.path.abspath(source))
    return hashlib.blake2b(path, digest_size=PLACE_BYTES).digest()


def _is_begun(folder: Path) -> bool:
    """Whether a command has begun in a folder, which otherwise is missing or empty.

    Hidden files do not count, nor does a record whose first line did not fit on a full disk.

    Raises:
        InputError: it is in use for something else.
    """
    path = folder / MANIFEST
    if path.is_file() and not _is_cut_off(path):
        return True
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        visible = (entry for entry in entries if not entry.name.startswith("."))
        if any(entry.name != MANIFEST or not entry.is_file() for entry in visible):
            raise InputError(
                f"{folder}: is not empty and holds no {MANIFEST}, or an empty one; choose a new or "
                "empty folder, so that nothing of yours is overwritten"
            )
    return False


def _first_line(path: Path) -> str:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.readline(LONGEST_LINE)


def _is_cut_off(path: Path) -> bool:
    """Whether a file ends within its first line, which a crash or a full disk interrupted."""
    line = _first_line(path)
    return not line or (line[0] == "{" and line[-1] != "\n" and not parse_json_object(line))


def _end_line(path: Path) -> None:
    """Ends a last line that a crash cut off, so that the next entry begins a new one."""
    with open(path, "rb+") as stream:
        if stream.seek(0, 2) > 0:
            stream.seek(-1, 2)
            if stream.read() != b"\n":
                stream.write(b"\n")


def _absorb_others(path: Path) -> None:
    """Moves the lines of the other processes' files of an earlier command behind its own.

    So the last entry of a name is always the newest. Killed in between, lines appear twice.
    """
    with os.scandir(path.parent) as entries:
        names = [
            entry.name
            for entry in entries
            if OTHER_MANIFEST.fullmatch(entry.name) and entry.is_file()
        ]
    for other in map(path.with_name, names):
        if not has_content(other) or not _is_of_process(other):
            continue
        _end_line(other)
        with open(path, "ab") as stream, open(other, "rb") as lines:
            shutil.copyfileobj(lines, stream)
        other.unlink()


def _is_of_process(path: Path) -> bool:
    """Whether a file that is named so is the record of another process, and not the user's own."""
    return _is_cut_off(path) or _is_entry(parse_json_object(_first_line(path)))


@dataclass
class FolderReport:
    """What became of the files of a folder.

    Attributes:
        done: number of files finished now.
        skipped: number of files finished before.
        failed: (file, reason) of those that could not be used.
    """

    done: int = 0
    skipped: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)

    @classmethod
    def of_all(cls, reports: "list[FolderReport]") -> "FolderReport":
        """Returns the sum of the reports of several processes."""
        return cls(
            done=sum(report.done for report in reports),
            skipped=sum(report.skipped for report in reports),
            failed=[failure for report in reports for failure in report.failed],
        )

    @property
    def exit_code(self) -> int:
        """1 if a file failed."""
        return 1 if self.failed else 0

    def print_summary(self, verb: str) -> int:
        """Prints the counts and the failures; returns the exit code."""
        before = f", {self.skipped} done before" if self.skipped else ""
        print(f"{self.done} {verb}{before}, {len(self.failed)} failed")
        for path, reason in self.failed:
            print(f"  failed: {reason if str(path) in reason else f'{path}: {reason}'}")
        return self.exit_code
