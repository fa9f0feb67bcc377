"""How much noise a picture has."""

import math
import warnings

from skimage.restoration import estimate_sigma
from torch import Tensor

from davi.config.problem import MAX_SIGMA
from davi.system.errors import InputError

# A factor between two deviations that is worth a word. The estimate of a picture of 8 bits is up to
# a tenth too small at sigma 0.2, because noise is cut off at black and white.
NOTED = 1.25


def estimated_sigma(picture: Tensor) -> float:
    """Returns the deviation of the noise in a picture (C, H, W), on the picture's own scale.

    Source: scikit-image's `estimate_sigma`, the median of the finest wavelet coefficients (Donoho
    and Johnstone 1994), mean of the channels. White Gaussian noise is assumed.

    Raises:
        InputError: a channel has one value everywhere.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a narrow channel, and of one without any detail
        sigma = float(estimate_sigma(picture.numpy(), channel_axis=0, average_sigmas=True))
    if math.isnan(sigma):
        raise InputError("the noise of this picture cannot be estimated; give its --sigma")
    return sigma


def is_other_noise(sigma: float, trained: tuple[float, float]) -> bool:
    """Returns whether a deviation differs from the smallest to the largest of a training."""
    low, high = trained
    return sigma * NOTED < low or sigma > high * NOTED


def require_sigma(sigma: float) -> None:
    """Refuses a deviation that cannot be one on the [-1, 1] scale.

    Raises:
        InputError: negative, above `MAX_SIGMA`, or no number.
    """
    if not 0 <= sigma <= MAX_SIGMA:
        raise InputError(
            f"sigma {sigma:g}: a deviation on the [-1, 1] scale is needed, between 0 and "
            f"{MAX_SIGMA:g}; gray levels of 255 are to be divided by 127.5"
        )


def in_words(sigma: float) -> str:
    """Returns a deviation on the [-1, 1] scale, and what it is in gray levels."""
    return f"sigma {sigma:.3g} ({127.5 * sigma:.3g} of 255 levels)"
