"""What was written into the checkpoints of a run, to tell a damaged one from a sound one."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from davi.system.files import sha256_of
from guided_diffusion.checkpoint import require_intact
from guided_diffusion.errors import CheckpointError

MANIFEST = "manifest.json"


class _Entry(BaseModel):
    """What is known of a checkpoint.

    Attributes:
        sha256: of its bytes, hexadecimal.
        bytes: how many there are.
        iteration: number of finished iterations.
        score: of the validation, higher is better; None if there was none.
    """

    sha256: str
    bytes: int
    iteration: int
    score: float | None


_ENTRIES = TypeAdapter(dict[str, _Entry])


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns {file name: what was written}; {} where the manifest is missing or damaged."""
    try:
        entries = _ENTRIES.validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}  # what it would vouch for is then not known
    return {name: entry.model_dump() for name, entry in entries.items()}


def difference(path: Path, entry: dict[str, Any]) -> str | None:
    """Returns what is wrong with a checkpoint, if anything."""
    try:
        if (size := path.stat().st_size) != entry["bytes"]:
            return f"has {size} bytes instead of {entry['bytes']}"
        sound = sha256_of(path) == entry["sha256"]
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if sound else "differs from what was written (SHA-256)"


def require_as_written(path: Path) -> None:
    """Refuses a PyTorch file that is not what was written.

    That is what the manifest beside it says, or else the checksums in the file itself.

    Raises:
        CheckpointError: it differs.
    """
    entry = read_manifest(path.parent).get(path.name)
    if entry is None:
        require_intact(path)
    elif problem := difference(path, entry):
        raise CheckpointError(
            f"{path}: {problem}; it is damaged, take another checkpoint of the run (davi train "
            "goes on from the newest sound one)"
        )
