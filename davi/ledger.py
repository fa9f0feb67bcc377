"""The record of a command that works through a folder: what it was told, and what it has done.

`manifest.jsonl` in the output folder: the first line holds the settings, every further line one
finished file. A rerun with the same settings goes on; with other settings it is refused, so that
no folder holds results of two kinds.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from davi.errors import InputError
from davi.files import make_folder

MANIFEST = "manifest.jsonl"


class Ledger:
    """Opens or creates the record of an output folder.

    Args:
        folder: the output folder.
        settings: whatever determines the results, as plain JSON values.
        source: the folder that is worked through, if it is one.

    Raises:
        InputError: the folder is not writable, holds something else, was written with other
            settings, or lies inside the source, where results would become input.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], source: Path | None = None) -> None:
        if source is not None and folder.resolve().is_relative_to(source.resolve()):
            raise InputError(f"{folder}: lies inside the input {source}; choose another --output")
        self.folder = folder
        self.path = folder / MANIFEST
        self._done: dict[str, str] = {}
        if folder.is_dir() and any(folder.iterdir()) and not self.path.exists():
            raise InputError(
                f"{folder}: is not empty and holds no {MANIFEST}; choose a new or empty folder, so "
                "that nothing of yours is overwritten"
            )
        make_folder(folder)
        if self.path.exists():
            self._read(json.loads(json.dumps(settings)))
        else:
            self._append(settings)

    def _read(self, settings: dict[str, Any]) -> None:
        text = self.path.read_text(encoding="utf-8")
        if not text.endswith("\n"):  # a crash cut the last line off; the next begins a new one
            self._append_text("\n")
        entries = [entry for entry in map(_parse, text.splitlines()) if entry is not None]
        before = entries[0] if entries else {}
        differing = [
            f"{key}: {before.get(key)!r} -> {settings.get(key)!r}"
            for key in before | settings
            if before.get(key) != settings.get(key)
        ]
        if differing:
            raise InputError(
                f"{self.folder}: was written with other settings ({'; '.join(differing)}); choose "
                "another --output"
            )
        self._done = {entry["name"]: entry["sha256"] for entry in entries[1:]}

    def is_done(self, name: str, sha256: str, results: Iterable[Path]) -> bool:
        """Returns whether a file of this name and content is finished, its results in place."""
        return self._done.get(name) == sha256 and all(path.exists() for path in results)

    def record(self, name: str, source: Path, sha256: str) -> None:
        """Notes that a file is finished; to be called after its results are on disk."""
        self._done[name] = sha256
        self._append({"name": name, "source": str(source), "sha256": sha256})

    def _append(self, entry: dict[str, Any]) -> None:
        self._append_text(json.dumps(entry) + "\n")

    def _append_text(self, text: str) -> None:
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(text)


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

    def print_summary(self, verb: str) -> int:
        """Prints the counts and the failures; returns the exit code, 1 if a file failed."""
        before = f", {self.skipped} done before" if self.skipped else ""
        print(f"{self.done} {verb}{before}, {len(self.failed)} failed")
        for path, reason in self.failed:
            print(f"  failed: {reason if str(path) in reason else f'{path}: {reason}'}")
        return 1 if self.failed else 0
