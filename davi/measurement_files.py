"""Measurements on disk: exact `.npy` arrays, or ordinary image files."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from davi.errors import InputError
from davi.images import IMAGE_SUFFIXES, list_files, load_image
from davi.ledger import read_settings
from davi.measurement import require_measurement_scale

MEASUREMENT_SUFFIXES = (".npy", *IMAGE_SUFFIXES)
MEASUREMENT_FOLDER = "measurement"  # where scripts/degrade.py puts them


def find_measurements(source: Path) -> tuple[dict[str, Path], list[tuple[Path, str]]]:
    """Returns {name: file} of a folder or a single file, and the files that cannot be used.

    A name is the relative path without suffix. Where a `.npy` has an image of the same name
    beside it, the image is its preview and is passed over; two images of one name are refused.

    Raises:
        InputError: missing or empty folder, or a file of another kind.
    """
    if source.is_file():
        if source.suffix.lower() not in MEASUREMENT_SUFFIXES:
            raise InputError(f"{source}: not one of {', '.join(MEASUREMENT_SUFFIXES)}")
        return {source.stem: source}, []
    groups: dict[str, list[Path]] = {}
    for path in list_files(source, MEASUREMENT_SUFFIXES):
        groups.setdefault(path.with_suffix("").as_posix(), []).append(source / path)
    chosen, refused = {}, []
    for name, paths in groups.items():
        exact = [path for path in paths if path.suffix.lower() == ".npy"]
        if len(exact or paths) == 1:
            chosen[name] = (exact or paths)[0]
        else:
            others = ", ".join(path.name for path in paths)
            reason = f"its result would have the same name as that of another file ({others})"
            refused += [(path, reason) for path in paths]
    return chosen, refused


def measurement_folder(source: Path) -> tuple[Path, dict[str, Any]]:
    """Returns where the measurements are, and what scripts/degrade.py noted about them.

    The output folder of degrade.py stands for the measurements in it; elsewhere nothing is known
    and {} is returned.
    """
    if source.name == MEASUREMENT_FOLDER and (settings := read_settings(source.parent)):
        return source, settings
    settings = read_settings(source)
    return (source / MEASUREMENT_FOLDER, settings) if "operator" in settings else (source, {})


def read_mask(path: Path, size: tuple[int, int]) -> Tensor:
    """Returns a bool mask (H, W) from an image: white is kept, black is missing.

    Raises:
        InputError: unreadable, or of another size.
    """
    mask = load_image(path, channels=1)[0] > 0
    if tuple(mask.shape) != size:
        raise InputError(
            f"{path}: mask of {mask.shape[0]}x{mask.shape[1]}, images are {size[0]}x{size[1]}"
        )
    return mask


def read_measurement(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """Returns a measurement of the given (C, h, w), float32 on the [-1, 1] scale.

    Raises:
        InputError: unreadable, not finite, or of another shape.
    """
    y = _read_array(path) if path.suffix.lower() == ".npy" else load_image(path, shape[0])
    if tuple(y.shape) != shape:
        raise InputError(
            f"{path}: measurement is {_shape_text(y.shape)}, {_shape_text(shape)} needed"
        )
    return y


def _read_array(path: Path) -> Tensor:
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # damaged bytes make the decoder raise whatever they spell
        raise InputError(f"{path}: not a readable .npy array ({error})") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise InputError(f"{path}: not an array of real numbers")
    if array.dtype.kind in "iu":
        raise InputError(f"{path}: integers; store float values on the [-1, 1] scale")
    y = torch.from_numpy(array.astype(np.float64))
    require_measurement_scale(y, str(path))
    if y.ndim == 4 and len(y) == 1:
        y = y[0]
    if y.ndim == 2:
        y = y[None]
    return y.float()


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) + " (channels x height x width)"
