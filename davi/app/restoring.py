"""What the page shows of a photograph: its measurement, restorations, and where they differ."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from davi.build import build_operator
from davi.data.decoding import stored_size
from davi.data.images import load_image, match_channels
from davi.data.measurement_files import require_mask
from davi.folders.photograph import describe
from davi.metrics.uncertainty import view_of_deviation
from davi.operators.inpainting import Inpainting
from davi.operators.measurement import ForwardModel, lift
from davi.operators.noise import GaussianNoise
from davi.operators.operator import ImageShape, Operator
from davi.pictures.noise import estimated_sigma, require_sigma
from davi.pictures.pieces import factors
from davi.restorer import Restorer
from davi.solvers.davi import load_generator
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng
from davi.weights.by_task import nearest_generator

TASKS = ("denoising", "super_resolution", "gaussian_blur", "inpainting", "colorization")
NUM_SAMPLES = 8
MAX_PIXELS = 256 * 256  # of a restored picture: 25 pieces, about 2 s a sample on one core
MAX_DECODED = 25_000_000  # of an uploaded picture: 300 MB of floats
MIN_SIDE = 16


def trained_sigma(task: str) -> float:
    """Returns the smallest deviation that a shipped generator for a task was trained for."""
    return nearest_generator(task, 0.0).sigmas[0]


@dataclass(frozen=True)
class Measured:
    """A photograph's measurement, and what it is restored by.

    Attributes:
        restorer: the shipped generator for the task.
        sigma: deviation of the noise, on the [-1, 1] scale.
        y: (C', h, w) measurement.
        operator: A for the whole picture.
        truth: (C, H, W) the clean picture; None if the photograph was damaged already.
        notes: lines that say what was assumed and done.
    """

    restorer: Restorer
    sigma: float
    y: Tensor
    operator: Operator
    truth: Tensor | None
    notes: tuple[str, ...]

    @property
    def picture(self) -> Tensor:
        """The measurement on the image grid, (C, H, W), small ones in squares."""
        return lift(self.y[None], self.operator.image_shape, "nearest")[0]


def canvas(photo: Path, device: str, precision: str) -> Tensor:
    """Returns the (3, H, W) picture to draw a hole of inpainting on, in [-1, 1].

    Raises:
        InputError: the file cannot be used.
    """
    path = nearest_generator("inpainting", 0.0).path
    return _fitted(_read(photo), load_generator(str(path), device, precision))


def measure(
    photo: Path,
    task: str,
    sigma: float | None,
    device: str,
    precision: str,
    seed: int = 0,
    hole: Tensor | None = None,
) -> Measured:
    """Returns the measurement of a photograph.

    Args:
        photo: a picture file.
        task: one of `TASKS`.
        sigma: deviation of the noise that a clean photograph is measured with; None for one that
            is a measurement already, whose noise is estimated.
        device: where the generator runs, such as "cpu".
        precision: fp32, bf16 or fp16.
        seed: of the noise.
        hole: (h, w) bool, true where a picture for inpainting is to be filled in, on `canvas` made
            larger or not; None for the hole of the training.

    Raises:
        InputError: the file cannot be used, is too large or too small, the task does not fit it, or
            nothing is left outside the hole.
    """
    picture = _read(photo)
    if sigma is None:
        return _given(picture, photo, task, device, precision, hole)
    require_sigma(sigma)
    restorer, notes = _generator(task, sigma, "chosen", device, precision)
    truth = _fitted(picture, restorer)
    if truth.shape != picture.shape:
        sizes = [f"{image.shape[1]}x{image.shape[2]}" for image in (picture, truth)]
        notes += (f"the picture was cut or made smaller: {sizes[0]} -> {sizes[1]}",)
    operator, more = _operator(restorer, tuple(truth.shape), hole)
    rngs = [keyed_rng("cpu", seed, "app", "noise")]
    y, operator = ForwardModel(operator, GaussianNoise(sigma, sigma)).measure(truth[None], rngs)
    return Measured(restorer, sigma, y[0], operator, truth, notes + more)


def _read(photo: Path) -> Tensor:
    """A picture (3, H, W) of a size that the page takes."""
    width, height = stored_size(photo)
    if width * height > MAX_DECODED:
        raise InputError(
            f"{photo}: {height}x{width} pixels; at most {MAX_DECODED / 1e6:.0f} million are read "
            "here, make it smaller first"
        )
    if min(height, width) < MIN_SIDE:
        raise InputError(f"{photo}: {height}x{width} pixels; {MIN_SIDE} a side are needed")
    return load_image(photo)


def _operator(
    restorer: Restorer, shape: ImageShape, hole: Tensor | None
) -> tuple[Operator, tuple[str, ...]]:
    """A for a whole picture, and lines about its hole if that was drawn."""
    operator = build_operator(restorer.config.operator, shape)
    if hole is None:
        return operator, ()
    # A pixel is missing if the brush has touched it anywhere.
    kept = F.adaptive_max_pool2d(hole[None].float(), shape[1:])[0] == 0
    require_mask(kept, "the hole that was drawn")
    if torch.equal(kept, operator.kept.bool()):
        return operator, ()
    note = (
        "note: the hole is not that of the training, and the generator has not learned to fill it"
    )
    return Inpainting(shape, kept), (f"{note}; the solvers take any",)


def _given(
    picture: Tensor, photo: Path, task: str, device: str, precision: str, hole: Tensor | None
) -> Measured:
    """The measurement that a photograph is."""
    sigma = estimated_sigma(picture)
    restorer, notes = _generator(task, sigma, "estimated", device, precision)
    y = match_channels(picture, restorer.measurement_shape[0], photo)
    height, width = restorer.restored_size(tuple(y.shape))
    if height * width > MAX_PIXELS:
        raise InputError(
            f"{photo}: would become {height}x{width} pixels; at most {MAX_PIXELS} are restored "
            "here, of any size by davi restore"
        )
    shape = (restorer.image_shape[0], height, width)
    operator, more = _operator(restorer, shape, hole)
    if hole is not None:
        y = operator.project(y)
    return Measured(restorer, sigma, y, operator, None, notes + more)


def _generator(
    task: str, sigma: float, origin: str, device: str, precision: str
) -> tuple[Restorer, tuple[str, ...]]:
    path = nearest_generator(task, sigma).path
    restorer = load_generator(str(path), device, precision)
    return restorer, tuple(describe(restorer, path.stem, sigma, origin))


def _fitted(picture: Tensor, restorer: Restorer) -> Tensor:
    """A clean picture of a size that can be measured and restored.

    What is damaged at one place is restored at the trained size only: the middle square is taken.
    """
    _, height, width = picture.shape
    if not restorer.operator.same_everywhere:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = picture[:, top : top + side, left : left + side]
        return _resized(square, restorer.image_shape[1:])
    if height * width > MAX_PIXELS:
        scale = (MAX_PIXELS / (height * width)) ** 0.5
        size = int(height * scale), int(width * scale)
        if min(size) < MIN_SIDE:
            raise InputError(f"{height}x{width} pixels are too long a strip; cut it first")
        picture = _resized(picture, size)
    tall, wide = factors(restorer.measurement_shape, restorer.image_shape)
    _, height, width = picture.shape
    return picture[:, : height - height % tall, : width - width % wide]


def _resized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    resized = F.interpolate(picture[None], size=size, mode="bilinear", antialias=True)
    return resized[0].clamp(-1, 1)


def samples(measured: Measured, seed: int = 0) -> Iterator[Tensor]:
    """Yields `NUM_SAMPLES` restorations (C, H, W) in [-1, 1], one after the other."""
    for number in range(NUM_SAMPLES):
        y = measured.y[None]
        yield measured.restorer.restore(y, 1, seed, [f"sample {number}"])[0, 0]


def uncertainty_map(found: list[Tensor]) -> tuple[Tensor, float]:
    """Returns where samples (C, H, W) differ, and by how much at most.

    Returns:
        See `view_of_deviation`; and the largest deviation, mean of the channels, on the [-1, 1]
        scale.
    """
    deviation = torch.stack(found).std(dim=0)
    return view_of_deviation(deviation), deviation.mean(dim=0).max().item()
