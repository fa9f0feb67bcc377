"""Per-pixel intervals from posterior samples, and the factor that makes them as wide as needed.

Samples are (N, ...), truths have the shape of one sample, both in [-1, 1].
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from davi.system.errors import InputError
from davi.system.files import write_text
from davi.system.json_file import read_json
from davi.system.ledger import differences


@dataclass(frozen=True)
class Calibration:
    """How much wider intervals must be than the samples say, found on images with known truth.

    The guarantee: if the calibrating images and a new one are exchangeable (as independent draws
    from one source, measured and restored in the same way), at least `level` of the new image's
    pixels lie in their intervals on average over new images and calibrating sets. It says nothing
    of one image, one pixel, or pixels together.

    Attributes:
        level: share of pixels that the intervals contain.
        factor: by which they reach farther from the median of the samples.
        num_samples: for each measurement.
        num_images: with known truth.
        coverage_before: share of their pixels in the intervals of factor 1.
        coverage_after: the same with the factor.
        restorer: network, task, precision and size that it holds for, see `Restorer.settings`.
        measured: operator and noise of the measurements, as far as known.
    """

    level: Annotated[float, Field(gt=0, lt=1)]
    factor: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    num_samples: Annotated[int, Field(ge=2)]
    num_images: Annotated[int, Field(ge=1)]
    coverage_before: Annotated[float, Field(ge=0, le=1)]
    coverage_after: Annotated[float, Field(ge=0, le=1)]
    restorer: dict[str, Any]
    measured: dict[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Returns the calibration in a file that `save` wrote.

        Raises:
            InputError: no such file, or another one.
        """
        try:
            return read_json(Path(path), cls)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error

    @property
    def sha256(self) -> str:
        """Of all that it says."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Writes it as a JSON file, whole or not at all."""
        write_text(Path(path), json.dumps(asdict(self), indent=2) + "\n")

    def require_fit(self, level: float, num_samples: int, restorer: dict[str, Any]) -> None:
        """Refuses intervals that it was not made for.

        Raises:
            InputError: another level, number of samples, network, precision or size.
        """
        own = {"level": self.level, "num_samples": self.num_samples, **self.restorer}
        now = {"level": level, "num_samples": num_samples, **json.loads(json.dumps(restorer))}
        if found := differences(own, now):
            raise InputError(
                f"the calibration was made for something else ({'; '.join(found)}); use it as it "
                "was made, or calibrate anew"
            )


def samples_needed(level: float) -> int:
    """Returns how many samples an interval of a level needs if it is not calibrated.

    With N samples a truth like them has each of the ranks 0 .. N equally often, so that the lowest
    and the highest sample contain it in (N - 1) / (N + 1) of the cases, and no interval within the
    samples does more often.
    """
    exact = _exact(level)
    return math.ceil((1 + exact) / (1 - exact))


def images_needed(level: float) -> int:
    """Returns how many images with known truth a calibration of a level needs."""
    exact = _exact(level)
    return math.ceil(exact / (1 - exact))


def require_samples(level: float, num_samples: int, calibrated: bool) -> None:
    """Refuses a level that the samples cannot bear, see `samples_needed`; calibrated 2 will do.

    Raises:
        InputError: they cannot, or it is no level.
    """
    needed = 2 if calibrated else samples_needed(level)
    if num_samples < needed:
        otherwise = "" if calibrated else ", or a calibration"
        raise InputError(
            f"an interval of level {level} needs at least {needed} samples of each "
            f"measurement{otherwise}; there are {num_samples}"
        )


def require_images(level: float, num_images: int) -> None:
    """Refuses fewer images with known truth than `images_needed`.

    Raises:
        InputError: there are fewer, or it is no level.
    """
    if num_images < (needed := images_needed(level)):
        raise InputError(
            f"a calibration for level {level} needs at least {needed} images with known truth; "
            f"there are {num_images}"
        )


def interval(samples: Tensor, level: float, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """Returns (low, high) of the central interval of each pixel, float32, clipped to [-1, 1].

    [m - factor (m - q_low), m + factor (q_high - m)], where q_low, q_high are the values of ranks
    (N + 1) p, p = (1 -+ level) / 2, among the N sorted samples, between two of them by linear
    interpolation, at most the lowest and the highest; m is their median.

    Source: Angelopoulos et al. 2022, "Image-to-Image Regression with Distribution-Free Uncertainty
    Quantification", for the form.

    Args:
        samples: (N, ...).
        level: share of truths that it is to contain.
        factor: by which it is widened.
    """
    low, middle, high = _quantiles(samples, level)
    reached = middle - factor * (middle - low), middle + factor * (high - middle)
    return reached[0].clamp(-1, 1), reached[1].clamp(-1, 1)


def reach(samples: Tensor, truth: Tensor, level: float) -> Tensor:
    """Returns the factor at which the `interval` of each pixel begins to contain the truth.

    Infinite where all samples are equal and the truth is another value.

    Args:
        samples: (N, ...).
        truth: the shape of one sample.
        level: of the interval.
    """
    low, middle, high = _quantiles(samples, level)
    away = truth.float() - middle
    needed = away.abs() / torch.where(away < 0, middle - low, high - middle)
    return torch.where(away == 0, 0, needed)  # 0 / 0 otherwise


def conformal_factor(reaches: Tensor, level: float) -> float:
    """Returns the smallest factor that keeps the promise of a level, see `Calibration`.

    The smallest one with n / (n + 1) (mean share of pixels outside) + 1 / (n + 1) <= 1 - level,
    which is the quantile of level (n + 1) / n of all pixels, since all images have as many.

    Source: Angelopoulos et al. 2024, "Conformal Risk Control", Theorem 1, with the share of pixels
    outside as the loss.

    Args:
        reaches: (n, P) of `reach`, n images of P pixels.
        level: share of pixels to be contained.

    Raises:
        InputError: there are too few images, or no factor does it.
    """
    count = len(reaches)
    require_images(level, count)
    sizes = np.asarray(reaches, dtype=np.float32).ravel()
    rank = math.ceil(len(sizes) * _exact(level) * (count + 1) / count)
    factor = float(np.partition(sizes, rank - 1)[rank - 1])
    if not math.isfinite(factor):
        raise InputError(
            f"no factor makes intervals of level {level}: at too many pixels all samples are "
            "equal, but not to the truth; draw more samples, or choose a lower level"
        )
    return factor


def calibration(
    reaches: Tensor,
    level: float,
    num_samples: int,
    restorer: dict[str, Any],
    measured: dict[str, Any],
) -> Calibration:
    """Returns the calibration of images whose `reach` is known, (n, P); else as its attributes."""
    factor = conformal_factor(reaches, level)
    before, after = ((reaches <= bound).double().mean().item() for bound in (1, factor))
    return Calibration(level, factor, num_samples, len(reaches), before, after, restorer, measured)


def calibrating_names(names: Sequence[str]) -> list[str]:
    """Returns names whose noise no measurement shares, since no path in a folder begins with /.

    A new image with the draws of a calibrating one would not be exchangeable with the others.
    """
    return [f"/calibration/{name}" for name in names]


def _exact(level: float) -> Fraction:
    """The level as it is written: 0.9 is 9/10."""
    if not 0 < level < 1:
        raise InputError(f"{level}: a level lies between 0 and 1, such as 0.9")
    return Fraction(repr(float(level)))


def _quantiles(samples: Tensor, level: float) -> list[Tensor]:
    """Low, median and high of each pixel, float32."""
    exact = _exact(level)
    ranks = [float((1 - exact) / 2), 0.5, float((1 + exact) / 2)]
    found = np.quantile(samples.cpu().numpy(), ranks, axis=0, method="weibull")
    return [torch.from_numpy(np.asarray(part, dtype=np.float32)) for part in found]


def view_of_deviation(deviation: Tensor) -> Tensor:
    """Returns a picture (1, H, W) in [-1, 1] of a deviation (C, H, W), the mean of its channels.

    0 is black and the largest white.
    """
    brightness = deviation.mean(dim=0, keepdim=True)
    return 2 * brightness / brightness.max().clamp(min=1e-6) - 1
