"""Total variation denoising, by scikit-image."""

from typing import ClassVar

import numpy as np
from pydantic import Field
from skimage import restoration

from davi.solvers.classical import ClassicalDenoiser

# scikit-image's own 2e-4 stops so early that more weight may smooth less.
TOLERANCE, MOST_ITERATIONS = 1e-5, 1000


class TotalVariation(ClassicalDenoiser):
    """Minimises |x - y|^2 / 2 + weight sigma TV(x), in every channel.

    Source: Rudin, Osher and Fatemi 1992; Chambolle 2004.

    Fields:
        weight: in units of the noise's deviation.
    """

    label: ClassVar[str] = "total variation"
    weight: float = Field(1.0, gt=0)

    def denoise(self, image: np.ndarray, sigma: float) -> np.ndarray:
        """See `ClassicalDenoiser.denoise`."""
        return restoration.denoise_tv_chambolle(
            image,
            self.weight * sigma,
            eps=TOLERANCE,
            max_num_iter=MOST_ITERATIONS,
            channel_axis=-1,
        )
