"""What davi degrade noted about measurements: whether they fit a generator, and how they arose."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from davi.build import build_operator
from davi.config.problem import GaussianNoiseConfig, NoiseConfig, OperatorConfig
from davi.data.decoding import open_image
from davi.data.measurement_files import (
    KERNEL_FOLDER,
    Measurements,
    find_measurements,
    measurement_folder,
    read_kernel,
    read_mask,
    read_measurement,
)
from davi.folders.degrading import recorded_noise, recorded_operator
from davi.operators.convolution import Convolution, RandomConvolution
from davi.operators.inpainting import Inpainting, RandomInpainting
from davi.operators.operator import Operator, RandomOperator
from davi.restorer import Restorer
from davi.system.errors import InputError, shown
from davi.system.ledger import differences


def check_task(restorer: Restorer, source: Path, made_by: dict[str, Any], quiet: bool) -> None:
    """Refuses measurements of another task, and points out another operator or noise."""
    if made_by.get("task", restorer.task) != restorer.task:
        raise InputError(
            f"{source}: measurements of {made_by['task']}, this generator is for {restorer.task}"
        )
    recorded = {
        "operator": recorded_operator(restorer.config.operator),
        "noise": recorded_noise(restorer.config.noise),
    }
    found = differences(recorded, {key: made_by.get(key, recorded[key]) for key in recorded})
    if found and not quiet:
        print(f"note: measured otherwise than in training ({'; '.join(found)})")


@dataclass(frozen=True)
class KnownMeasurements:
    """Measurements y = A x + n of which A and the deviation of n are known.

    Attributes:
        found: the measurements.
        operator: A, or the family of which every image has its own.
        sigma: the deviation of the Gaussian noise.
    """

    found: Measurements
    operator: Operator | RandomOperator
    sigma: float

    def read(self, name: str) -> tuple[Tensor, Operator]:
        """Returns y (1, *measurement_shape) of an image, and its A.

        Raises:
            InputError: the measurement, the mask or the kernel cannot be read.
        """
        operator = self.operator
        if isinstance(operator, RandomInpainting):
            shape, mask = operator.image_shape, self.found.root.parent / "mask" / f"{name}.png"
            operator = Inpainting(shape, read_mask(mask, shape[1:]), operator.noise_in_hole)
        elif isinstance(operator, RandomConvolution):
            path = self.found.root.parent / KERNEL_FOLDER / f"{name}.npy"
            kernel = read_kernel(path, operator.kernel_size)
            operator = Convolution(operator.image_shape, kernel[None, None])
        y = read_measurement(self.found.path(name), operator)
        return y[None], operator


def known_measurements(folder: Path, sizes: dict[str, tuple[int, int]]) -> KnownMeasurements | str:
    """Returns the measurements of images, or why the record does not tell how they were made.

    Args:
        folder: of davi degrade.
        sizes: {name: (width, height)} of the images.

    Raises:
        InputError: it is no such folder, or lacks measurements of some images.
    """
    source, made_by = measurement_folder(folder)
    if not made_by.keys() >= {"operator", "noise", "image_size"}:
        raise InputError(f"{folder}: is no folder of davi degrade, whose record is needed")
    found = find_measurements(source)
    if missing := [name for name in sizes if name not in found.suffixes]:
        raise InputError(f"{source}: lacks the measurements of {shown(missing)}")
    side = made_by["image_size"]
    if other := [name for name, size in sizes.items() if size != (side, side)]:
        return f"measured were images of {side}x{side}, {shown(other, 3)} are of another size"
    try:
        operator = _validated(OperatorConfig, made_by["operator"])
        noise = _validated(NoiseConfig, made_by["noise"])
    except ValidationError:
        # Of an operator or a mask of the user's own it holds the hash.
        return f"the record of {source.parent} does not tell the whole operator and noise"
    if not isinstance(noise, GaussianNoiseConfig) or len(set(noise.bounds)) > 1 or noise.clip:
        return "the noise has no single deviation"
    if not noise.bounds[0]:
        return "the measurements have no noise"
    reference = source.parent / "reference" / f"{next(iter(sizes))}.png"
    channels = 1 if open_image(reference).mode in ("L", "I") else 3
    return KnownMeasurements(
        found, build_operator(operator, (channels, side, side)), noise.bounds[0]
    )


def _validated(kind: Any, values: Any) -> Any:
    """A config from its record, in which lists stand for tuples."""
    return TypeAdapter(kind).validate_python(_with_tuples(values))


def _with_tuples(values: Any) -> Any:
    if isinstance(values, list):
        return tuple(_with_tuples(value) for value in values)
    if isinstance(values, dict):
        return {key: _with_tuples(value) for key, value in values.items()}
    return values
