"""Non-local means denoising, by scikit-image."""

from typing import ClassVar

import numpy as np
from pydantic import Field
from skimage import restoration

from davi.solvers.classical import ClassicalDenoiser


class NonLocalMeans(ClassicalDenoiser):
    """A pixel becomes the mean of those around it, weighted by how much their patches look alike.

    Source: Buades, Coll and Morel 2005; the fast version of Darbon et al. 2008.

    Fields:
        patch_size: side of the patches in pixels.
        patch_distance: how far from a pixel others are looked for.
        strength: of the averaging, in units of the noise's deviation.
    """

    label: ClassVar[str] = "non-local means"
    patch_size: int = Field(7, ge=1)
    patch_distance: int = Field(6, ge=1)
    strength: float = Field(0.6, gt=0)

    def denoise(self, image: np.ndarray, sigma: float) -> np.ndarray:
        """See `ClassicalDenoiser.denoise`."""
        return restoration.denoise_nl_means(
            image,
            self.patch_size,
            self.patch_distance,
            self.strength * sigma,
            sigma=sigma,
            channel_axis=-1,
        )
