"""Writing files so that a reader never sees half of one."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from davi.system.errors import InputError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic_path(path: Path, durable: bool = False) -> Iterator[Path]:
    """Gives a temporary path beside `path`, renamed to `path` once the block has succeeded.

    Args:
        path: what a reader will find.
        durable: let file and name reach the disk before going on, to survive a loss of power.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if durable:
            flush_to_disk(temporary)
        os.replace(temporary, path)
        if durable:
            flush_to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_full_as_input_error(folder: Path) -> Iterator[None]:
    """Within the block a full disk or quota is reported in one line that names the folder.

    Raises:
        InputError: instead of the OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        free = shutil.disk_usage(folder).free
        raise InputError(
            f"{folder}: cannot be written to ({error.strerror}); {free} bytes are free there. Make "
            "room and give the same command again"
        ) from error


def flush_to_disk(path: Path) -> None:
    """Returns once a file (or a folder's list of names) is on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of processes that were killed while writing below a folder."""
    for temporary in folder.rglob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Writes a text file, whole or not at all; `durable` as for `atomic_path`."""
    with atomic_path(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_json(path: Path, entry: dict[str, Any]) -> None:
    """Appends a line to a file of JSON lines."""
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry) + "\n")


def make_folder(path: Path) -> Path:
    """Creates a folder (and its parents) that must be writable, and returns it.

    Raises:
        InputError: it cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{path}: cannot write there ({error.strerror})") from error
    return path


def cache_folder(kind: str) -> Path:
    """Returns where things of a kind are kept: $XDG_CACHE_HOME/davi/KIND (~/.cache/davi/KIND)."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "davi", kind)


def sha256_of(path: Path) -> str:
    """Returns the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
