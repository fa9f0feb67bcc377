"""The record of a command that works through a folder: what it was told, and what it has done.

`manifest.jsonl` in the output folder: the first line holds the settings, every further line one
finished file. A rerun with the same settings goes on; with other settings it is refused, so that
no folder holds results of two kinds.

Of several processes each writes a file of its own, `manifest.jsonl` the first, `manifest.1.jsonl`
and so on the others; the next command on the folder begins by moving their lines into the first.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from davi.system.errors import InputError
from davi.system.files import append_json, make_folder, remove_leftovers
from davi.system.world import ONE_PROCESS, World

MANIFEST = "manifest.jsonl"
OTHER_MANIFEST = re.compile(r"manifest\.\d+\.jsonl")


class Ledger:
    """Opens or creates the record of an output folder.

    Args:
        folder: the output folder.
        settings: whatever determines the results, as plain JSON values.
        source: the folder that is worked through, if it is one.
        world: the processes that share the work, if there are several; all must call.

    Raises:
        InputError: the folder is not writable, holds something else, was written with other
            settings, or lies inside the source, where results would become input.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        source: Path | None = None,
        world: World = ONE_PROCESS,
    ) -> None:
        self.folder = folder
        self.path = folder / (MANIFEST if world.is_first else f"manifest.{world.rank}.jsonl")
        world.on_first(lambda: self._prepare(settings, source))
        # {name: hash}, as small as it gets: there may be a million.
        self._done = {
            entry["name"]: bytes.fromhex(entry["sha256"]) for entry in read_entries(folder)
        }

    def _prepare(self, settings: dict[str, Any], source: Path | None) -> None:
        """Checks that the folder may be written to, and brings its record into one file."""
        if source is not None:
            require_outside(self.folder, source)
        exists = self.path.exists()
        if not exists and self.folder.is_dir() and any(self.folder.iterdir()):
            raise InputError(
                f"{self.folder}: is not empty and holds no {MANIFEST}; choose a new or empty "
                "folder, so that nothing of yours is overwritten"
            )
        make_folder(self.folder)
        if exists:
            now = json.loads(json.dumps(settings))
            if differing := differences(read_settings(self.folder), now):
                raise InputError(
                    f"{self.folder}: was written with other settings ({'; '.join(differing)}); "
                    "choose another --output"
                )
            _end_line(self.path)
            _absorb_others(self.path)
            remove_leftovers(self.folder)
        else:
            append_json(self.path, settings)

    def is_done(self, name: str, sha256: str, results: Iterable[Path]) -> bool:
        """Returns whether an earlier command finished a file of this name and content.

        Its results must still be in place.
        """
        done = self._done.get(name) == bytes.fromhex(sha256)
        return done and all(path.exists() for path in results)

    def record(self, name: str, source: Path, sha256: str, **facts: Any) -> None:
        """Notes that a file is finished; to be called after its results are on disk.

        Args:
            name: of the file, as in `is_done`.
            source: the file.
            sha256: of its content.
            facts: what else is to be known of it, plain JSON values.
        """
        entry = {"name": name, "source": str(source), "sha256": sha256, **facts}
        append_json(self.path, entry)


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
    """Yields what was recorded of each finished file of an output folder, oldest first."""
    with open(folder / MANIFEST, encoding="utf-8") as stream:
        stream.readline()  # the settings
        yield from filter(None, map(_parse, stream))


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
        names = [entry.name for entry in entries if OTHER_MANIFEST.fullmatch(entry.name)]
    for other in map(path.with_name, names):
        _end_line(other)
        with open(path, "ab") as stream, open(other, "rb") as lines:
            shutil.copyfileobj(lines, stream)
        other.unlink()


def _parse(line: str) -> dict[str, Any] | None:
    """The entry of a line; None for an empty line or one cut off by a crash."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def read_settings(folder: Path) -> dict[str, Any]:
    """Returns the settings an output folder was written with; {} if it is none or damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", errors="replace") as stream:
        return _parse(stream.readline()) or {}


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
