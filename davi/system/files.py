"""Writing files so that a reader never sees half of one."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from davi.system.errors import InputError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # as of Lustre or NFS, by how it is mounted
LOCK = ".lock"
# Of `atomic_path`, and of versions before 0.2, which had the whole name in it.
_TEMPORARY = re.compile(r"\.(davi-[0-9a-f]{16}|.+\.(png|npy|pt|jsonl?|yaml|csv))\.\d+\.tmp")


@contextlib.contextmanager
def atomic_path(path: Path, durable: bool = False) -> Iterator[Path]:
    """Gives a temporary path beside `path`, renamed to `path` once the block has succeeded.

    Args:
        path: what a reader will find.
        durable: let file and name reach the disk before going on, to survive a loss of power.

    Raises:
        InputError: the disk is full.
        OSError: another error of writing; it names `path`.
    """
    # Of one length, since a name that just fits the file system cannot be made longer.
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    temporary = path.with_name(f".davi-{digest}.{os.getpid()}.tmp")
    try:
        with disk_full_as_input_error(path.parent):
            yield temporary
            if durable:
                flush_to_disk(temporary)
            os.replace(temporary, path)
            if durable:
                flush_to_disk(path.parent)
    except OSError as error:  # of a failed write, which names no file, or of the temporary one
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
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
    """Removes the temporary files of processes that were killed while writing below a folder.

    Nobody else may be writing there, see `folder_lock`.
    """
    for temporary in folder.rglob(".*.tmp"):
        if _TEMPORARY.fullmatch(temporary.name):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_lock(folder: Path, busy: str) -> Iterator[None]:
    """Within the block no other process holds the lock of a folder.

    Args:
        folder: exists already.
        busy: what to say if another one does.

    Raises:
        InputError: another one does.
    """
    from filelock import FileLock, Timeout  # --help need not wait for it

    held = contextlib.nullcontext()
    try:
        # A file that stands for the lock, where there is no other, would outlive a kill.
        held = FileLock(folder / LOCK, blocking=False, fallback_to_soft=False).acquire()
    except Timeout as error:
        raise InputError(f"{folder}: {busy}") from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(f"note: {folder}: no locks there ({error.strerror}); start no second command there")
    with held:
        yield


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Writes a text file, whole or not at all; `durable` as for `atomic_path`."""
    with atomic_path(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_json(path: Path, entry: dict[str, Any]) -> None:
    """Appends a line to a file of JSON lines.

    Raises:
        InputError: the disk is full.
    """
    with disk_full_as_input_error(path.parent), open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry) + "\n")


def parse_json_object(text: str) -> dict[str, Any]:
    """Returns the JSON object that a text holds; {} if it holds none, whatever it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def has_content(path: Path) -> bool:
    """Returns whether a path is a file that is not empty, as a full disk leaves it."""
    return path.is_file() and path.stat().st_size > 0


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
