"""Measurements on disk: exact `.npy` arrays, or ordinary image files."""

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from davi.data.decoding import stored_size
from davi.data.images import IMAGE_SUFFIXES, list_names, load_image
from davi.operators.measurement import require_measurement_scale
from davi.operators.operator import LARGEST_VALUE, Operator, RandomOperator
from davi.system.errors import SAME_NAME, InputError
from davi.system.ledger import read_settings

KERNEL_TOLERANCE = 1e-3  # of the sum
MEASUREMENT_SUFFIXES = (".npy", *IMAGE_SUFFIXES)
MEASUREMENT_FOLDER = "measurement"  # where davi degrade puts them
KERNEL_FOLDER = "kernel"  # and those of blurs of which each image has its own


@dataclass(frozen=True)
class Measurements:
    """The files of a folder that hold measurements; of a million of them, little but the names.

    Attributes:
        root: the folder.
        suffixes: {name: suffix}; a name is the path relative to the folder, without suffix.
        refused: (file, reason) of those that cannot be used.
    """

    root: Path
    suffixes: dict[str, str]
    refused: list[tuple[Path, str]]

    def path(self, name: str) -> Path:
        """Returns the file of a name."""
        return self.root / (name + self.suffixes[name])


def find_measurements(source: Path) -> Measurements:
    """Returns the measurements of a folder or a single file, without opening one.

    Where a `.npy` has an image of the same name beside it, the image is its preview and is passed
    over; two images of one name are refused.

    Raises:
        InputError: missing or empty folder, or a file of another kind.
    """
    if source.is_file():
        if source.suffix.lower() not in MEASUREMENT_SUFFIXES:
            raise InputError(f"{source}: not one of {', '.join(MEASUREMENT_SUFFIXES)}")
        return Measurements(source.parent, {source.stem: source.suffix}, [])
    found: dict[str, str] = {}
    for file in list_names(source, MEASUREMENT_SUFFIXES):
        name, suffix = os.path.splitext(file)
        # "/" parts the suffixes of one name; a string that many names share is held once.
        found[name] = sys.intern(f"{found[name]}/{suffix}" if name in found else suffix)
    refused = []
    for name in [name for name, suffixes in found.items() if "/" in suffixes]:
        suffixes = found[name].split("/")
        exact = [suffix for suffix in suffixes if suffix.lower() == ".npy"]
        if len(exact) == 1:
            found[name] = exact[0]
        else:
            del found[name]
            paths = [source / (name + suffix) for suffix in suffixes]
            reason = f"{SAME_NAME} ({', '.join(path.name for path in paths)})"
            refused += [(path, reason) for path in paths]
    return Measurements(source, found, refused)


def measurement_folder(source: Path) -> tuple[Path, dict[str, Any]]:
    """Returns where the measurements are, and what davi degrade noted about them.

    The output folder of davi degrade stands for the measurements in it; elsewhere nothing is known
    and {} is returned.
    """
    if source.name == MEASUREMENT_FOLDER and (settings := read_settings(source.parent)):
        return source, settings
    settings = read_settings(source)
    return (source / MEASUREMENT_FOLDER, settings) if "operator" in settings else (source, {})


def read_mask(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """Returns a bool mask (H, W) from an image: white is kept, black is missing.

    Of an image of 0 and one other value, be it 1 or 255, that value is white. In any other, what is
    lighter than the middle gray is.

    Args:
        path: the image.
        size: (H, W) that it must have; None for any.

    Raises:
        InputError: unreadable, of another size, or all white or all black.
    """
    image = load_image(path, 1, size)[0]
    levels = image.unique()
    of_zero = len(levels) == 2 and levels[0] == -1
    mask = image > (-1 if of_zero else 0)
    require_mask(mask, str(path), size)
    return mask


def require_mask(mask: Tensor, where: str, size: tuple[int, int] | None = None) -> None:
    """Refuses a mask (H, W) of another size, or one that keeps nothing or everything.

    Raises:
        InputError: `where` begins its message.
    """
    if size is not None and tuple(mask.shape) != tuple(size):
        raise InputError(
            f"{where}: mask of {mask.shape[0]}x{mask.shape[1]}, images are {size[0]}x{size[1]}"
        )
    if mask.all() or not mask.any():
        raise InputError(
            f"{where}: mask that keeps {'every' if mask.all() else 'no'} pixel; white (255, or 1 "
            "where all others are 0) is kept, black (0) is missing"
        )


def read_measurement(
    path: Path, operator: Operator | RandomOperator, any_size: bool = False
) -> Tensor:
    """Returns a measurement by an operator, float32 on the [-1, 1] scale.

    Args:
        path: its file.
        operator: A.
        any_size: of the shape, only the number of axes and the channels must fit.

    Raises:
        InputError: unreadable, not finite, or of another shape.
    """
    shape = tuple(operator.measurement_shape)
    if path.suffix.lower() == ".npy":
        y = _read_array(path, len(shape), operator.largest_value)
    elif len(shape) == 3 and shape[0] in (1, 3):
        y = load_image(path, shape[0], None if any_size else shape[1:])
    else:
        raise InputError(
            f"{path}: is a picture; {shape_text(shape)} needed, which only an .npy array has"
        )
    compared = 1 if any_size else len(shape)
    if y.ndim != len(shape) or tuple(y.shape[:compared]) != shape[:compared]:
        raise InputError(
            f"{path}: measurement is {shape_text(y.shape)}, {shape_text(shape)} needed"
        )
    return y


def read_kernel(path: Path, size: int) -> Tensor:
    """Returns the kernel of a blur, (size, size) float32, from an .npy file.

    Raises:
        InputError: unreadable, of another shape, with negative or infinite taps, or of another sum
            than 1.
    """
    kernel = _read_array(path, 2, LARGEST_VALUE)
    if kernel.shape != (size, size):
        raise InputError(
            f"{path}: kernel of {shape_text(tuple(kernel.shape))}, {size}x{size} needed"
        )
    if (kernel < 0).any() or abs(kernel.sum().item() - 1) > KERNEL_TOLERANCE:
        raise InputError(f"{path}: no kernel, whose taps are not negative and have the sum 1")
    return kernel


def num_pixels(path: Path) -> int:
    """Returns how many pixels a measurement has, without decoding it.

    Raises:
        InputError: unreadable.
    """
    if path.suffix.lower() == ".npy":
        return math.prod(_load_array(path, "r").shape[-2:])
    return math.prod(stored_size(path))


def _load_array(path: Path, mapped: Literal["r"] | None = None) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode=mapped, allow_pickle=False)
    except Exception as error:  # damaged bytes make the decoder raise whatever they spell
        raise InputError(f"{path}: not a readable .npy array ({error})") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: several arrays in one file; one .npy array is needed")
    return array


def _read_array(path: Path, ndim: int, largest: float) -> Tensor:
    array = _load_array(path)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{path}: not an array of real numbers")
    if array.dtype.kind in "iu":
        raise InputError(f"{path}: integers; store float values on the [-1, 1] scale")
    y = torch.from_numpy(array.astype(np.float64))
    require_measurement_scale(y, str(path), largest)
    if y.ndim == ndim + 1 and len(y) == 1:  # a batch of one
        y = y[0]
    if y.ndim == 2 and ndim == 3:  # gray
        y = y[None]
    return y.float()


def shape_text(shape: tuple[int, ...]) -> str:
    """Returns the shape of a measurement in words."""
    return "x".join(map(str, shape)) + (" (channels x height x width)" if len(shape) == 3 else "")
