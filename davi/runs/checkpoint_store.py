"""Training states on disk, none of them ever half written or silently damaged.

iteration_*.pt   one training state each: the newest few, and the best
manifest.json    {file: {"sha256", "bytes", "iteration", "score"}} of the complete ones

A state is written under a temporary name, entered into the manifest, flushed to the disk and then
renamed: whatever the moment of a crash, every name that can be read holds what the manifest says.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from davi.system.errors import InputError
from davi.system.files import atomic_path, remove_leftovers, write_text
from davi.weights.checkpoint_manifest import MANIFEST, difference, read_manifest

_OVERHEAD = 1 << 20  # bytes of a file beyond its tensors: keys, shapes, configuration


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run.

    Attributes:
        folder: exists already.
        keep: how many of the newest to keep; the one with the highest score is kept besides.
    """

    folder: Path
    keep: int

    def save(self, iteration: int, state: dict[str, Any], score: float | None) -> None:
        """Writes a state and drops those that are no longer to be kept.

        Args:
            iteration: number of finished iterations.
            state: plain containers and CPU tensors.
            score: of the validation at this iteration, higher is better; None if there was none.

        Raises:
            InputError: it cannot be written; the earlier ones are as they were.
        """
        path = self.folder / f"iteration_{iteration:07d}.pt"
        try:
            if shutil.disk_usage(self.folder).free < num_bytes(state) + _OVERHEAD:
                raise OSError("No space left on device")
            with atomic_path(path, durable=True) as temporary:
                with open(temporary, "wb") as stream:
                    hashing = _HashingStream(stream)
                    torch.save(state, hashing)
                entry = {
                    "sha256": hashing.digest.hexdigest(),
                    "bytes": hashing.num_bytes,
                    "iteration": iteration,
                    "score": score,
                }
                self._write_manifest(read_manifest(self.folder) | {path.name: entry})
        except (InputError, OSError, RuntimeError) as error:  # the last by torch.save
            raise _cannot_write(path, state, error) from error
        self._prune()

    def find_newest(self) -> tuple[Path | None, list[str]]:
        """Returns the newest sound checkpoint, if there is one, and a line for every damaged one.

        A damaged file is renamed to NAME.damaged.

        Raises:
            InputError: there are checkpoints, and all of them are damaged.
        """
        remove_leftovers(self.folder)
        messages: list[str] = []
        entries = read_manifest(self.folder)
        for name in reversed(self._complete()):
            path = self.folder / name
            if name not in entries:
                messages.append(f"{path}: is not in {MANIFEST}, or that is damaged; not used")
                continue
            problem = difference(path, entries[name])
            if problem is None:
                return path, messages
            damaged = path.with_name(f"{name}.damaged")
            os.replace(path, damaged)
            messages.append(f"{path}: {problem}; renamed to {damaged.name}, not used")
        if messages:
            raise InputError(
                f"{'; '.join(messages)}. No sound checkpoint is left: begin anew with another "
                "--run-dir"
            )
        return None, messages

    def best(self) -> Path | None:
        """Returns the checkpoint with the highest validation score, if any has one."""
        entries = read_manifest(self.folder)
        scores = {name: entries[name]["score"] for name in self._complete() if name in entries}
        scored = [name for name, score in scores.items() if score is not None]
        return self.folder / max(scored, key=scores.get) if scored else None

    def _complete(self) -> list[str]:
        """Names of the checkpoints, oldest first."""
        return sorted(path.name for path in self.folder.glob("iteration_*.pt"))

    def _write_manifest(self, entries: Mapping[str, Any]) -> None:
        text = json.dumps(dict(sorted(entries.items())), indent=2) + "\n"
        write_text(self.folder / MANIFEST, text, durable=True)

    def _prune(self) -> None:
        entries, best = read_manifest(self.folder), self.best()
        names = [name for name in self._complete() if name in entries]
        kept = {*names[-self.keep :], *([best.name] if best else [])}
        for name in names:
            if name not in kept:
                (self.folder / name).unlink()
        self._write_manifest({name: entries[name] for name in kept})


class _HashingStream:
    """A binary file that knows the hash of what was written to it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.num_bytes += len(data)
        return self.stream.write(data)

    def flush(self) -> None:
        self.stream.flush()


def num_bytes(state: Any) -> int:
    """Returns how much the tensors in nested containers hold."""
    return sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, Tensor))


def _cannot_write(path: Path, state: dict[str, Any], error: Exception) -> InputError:
    free = shutil.disk_usage(path.parent).free
    cause = error.__context__ if isinstance(error.__context__, OSError) else error
    reason = getattr(cause, "strerror", None) or str(cause).splitlines()[0]
    return InputError(
        f"{path}: cannot be written ({reason}); it needs {num_bytes(state) + _OVERHEAD} bytes, "
        f"{free} are free there. The checkpoints before it are sound: make room and give the same "
        "command again"
    )
