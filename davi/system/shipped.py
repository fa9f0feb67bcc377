"""Configurations and networks that come with davi: found by name, wherever it is installed.

In a checkout they are the folders configs/ and checkpoints/; an installed package carries copies in
davi/shipped/ (see setup.py).
"""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
CONFIGS, CHECKPOINTS = "configs", "checkpoints"
SUFFIXES = {CONFIGS: ".yaml", CHECKPOINTS: ".safetensors"}


def shipped_folder(kind: str) -> Path:
    """Returns where the shipped files of a kind are: `CONFIGS` or `CHECKPOINTS`."""
    inside = PACKAGE / "shipped" / kind
    return inside if inside.is_dir() else PACKAGE.parent / kind


def shipped_names(kind: str) -> list[str]:
    """Returns the names under which `find` knows the shipped files of a kind, sorted."""
    return sorted(path.stem for path in shipped_folder(kind).glob(f"*{SUFFIXES[kind]}"))


def find(path: str | Path, kind: str) -> Path:
    """Returns the file that is meant: the user's own, or else the shipped one of this name.

    Args:
        path: what the user wrote. Of a shipped file: its name ("photos_denoising"), or its path in
            a checkout ("checkpoints/photos_denoising.safetensors").
        kind: `CONFIGS` or `CHECKPOINTS`.

    Returns:
        A file or folder that exists; `path` as it is if there is none, for the reader to refuse.
    """
    path = Path(path)
    # A folder of the same name is meant only where folders are: runs, which hold checkpoints/.
    own = path.is_file() or (kind == CHECKPOINTS and (path / "checkpoints").is_dir())
    if own or path.is_absolute() or ".." in path.parts:
        return path
    inside = path.relative_to(kind) if path.parts[:1] == (kind,) else path
    candidate = shipped_folder(kind) / inside
    if not candidate.suffix:
        candidate = candidate.with_suffix(SUFFIXES[kind])
    return candidate if candidate.is_file() else path
