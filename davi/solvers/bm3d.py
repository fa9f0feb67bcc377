"""BM3D denoising, by the optional package of its authors."""

import importlib.util
from typing import ClassVar

import numpy as np
from pydantic import Field
from scipy.fft import dct, idct

from davi.operators.linear import LinearOperator
from davi.solvers.base import Noise
from davi.solvers.classical import ClassicalDenoiser
from davi.system.errors import InputError

# Side of the grid on which the package computes variances. Its own 32 takes four times as long, for
# 0.02 dB on 16 crops of photos:tuning.
VARIANCE_GRID = 16
SMALLEST = 16  # side of an image in pixels: the package crashes where only one block of 8 fits


class BM3D(ClassicalDenoiser):
    """Filters groups of patches that look alike, in a transform domain.

    Source: Dabov et al. 2007 (CBM3D); Makinen, Azzari and Foi 2020, whose package this is. Its
    licence is for non-commercial use.

    Fields:
        strength: the deviation of the noise that it is told, in units of the true one.
    """

    label: ClassVar[str] = "BM3D"
    strength: float = Field(1.0, gt=0)

    def require(self, operator: LinearOperator, noise: Noise) -> None:
        """Refuses what `Solver.require` does, and to work without its package.

        Raises:
            InputError: says what is lacking.
        """
        super().require(operator, noise)
        if importlib.util.find_spec("bm3d") is None:
            raise InputError(
                "BM3D needs the package bm3d, free for non-commercial use: pip install 'davi[bm3d]'"
            )
        if min(operator.image_shape[1:]) < SMALLEST:
            raise InputError(
                f"BM3D needs images of at least {SMALLEST}x{SMALLEST}; here are "
                f"{operator.image_shape}. Choose another solver"
            )

    def denoise(self, image: np.ndarray, sigma: float) -> np.ndarray:
        """See `ClassicalDenoiser.denoise`."""
        import bm3d

        profile = bm3d.BM3DProfile()
        profile.num_threads = 1  # with more, a result may differ from run to run
        profile.nf = VARIANCE_GRID
        levels = [self.strength * sigma] * image.shape[-1]
        # Patches are compared in the first channel, the mean. The package's own bm3d_rgb scales
        # every channel to [0, 1], and the process crashes if one is constant.
        channels = bm3d.bm3d(dct(image, norm="ortho"), levels, profile)
        return idct(channels.reshape(image.shape), norm="ortho")
