"""The least an operator must offer, A and its adjoint, and what follows from them."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

ImageShape = tuple[int, int, int]
LARGEST_VALUE = 10.0  # of a believable measurement, noise included; 0..255 is another scale
# Of |A^T (y - A x) - rho x|, relative to its start. So what A shrinks to less than a hundredth of
# the rest, 1e-4 in A^T A, is hardly inverted, which would only amplify noise.
TOLERANCE = 1e-4
MAX_ITERATIONS = 100  # each with one A and one A^T


class LinearOperator(nn.Module, ABC):
    """A linear operator on images (B, C, H, W) in [-1, 1], without trainable weights.

    Measurements are real and of any shape. Complex ones are given as real and imaginary parts
    (`torch.view_as_real`): so noise has one sigma for each, inner products are real, and files hold
    what every method works with.

    Args:
        image_shape: (C, H, W) of the images.
        measurement_shape: shape of one measurement, without batch.

    Attributes:
        largest_value: measurements with larger ones are refused as being on another scale.
        same_everywhere: a piece of a measurement is the measurement of a piece, but for its border,
            so that pictures of any size can be restored in pieces. The sides of an image must be
            those of its measurement, or a whole number of times them.
    """

    largest_value = LARGEST_VALUE
    same_everywhere = False

    def __init__(self, image_shape: ImageShape, measurement_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.measurement_shape = measurement_shape

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """Returns the noiseless measurement (B, *measurement_shape) of images (B, C, H, W)."""

    @abstractmethod
    def A_adjoint(self, y: Tensor) -> Tensor:
        """Returns A^T y, an image (B, C, H, W)."""

    def least_squares(self, y: Tensor, rho: float) -> Tensor:
        """Returns argmin_x |y - A x|^2 + rho |x|^2 = (A^T A + rho)^-1 A^T y, (B, C, H, W).

        Here by `conjugate_gradients`, to a relative gradient of 1e-4 or for 100 iterations; exact
        where the singular values are known.

        Args:
            y: (B, *measurement_shape).
            rho: above 0.
        """
        return conjugate_gradients(self.A, self.A_adjoint, y, rho)

    def A_dagger(self, y: Tensor) -> Tensor:
        """Returns the pseudo-inverse A^+ y, an image (B, C, H, W).

        Here by `conjugate_gradients`, too, which leave out directions that A shrinks to less than
        about a hundredth of the others.
        """
        return conjugate_gradients(self.A, self.A_adjoint, y, 0.0)

    def proximal(self, x0: Tensor, y: Tensor, rho: float) -> Tensor:
        """Returns argmin_x |y - A x|^2 + rho |x - x0|^2, (B, C, H, W).

        With rho = sigma_y^2 / tau^2, that is E[x | y] for x ~ N(x0, tau^2 I) and noise of sigma_y.

        Args:
            x0: (B, C, H, W).
            y: (B, *measurement_shape).
            rho: above 0.
        """
        return x0 + self.least_squares(y - self.A(x0), rho)

    def project(self, y: Tensor) -> Tensor:
        """Returns y with the entries that A does not measure set to 0 (the hole of inpainting)."""
        return y

    def sample(self, rngs: list[torch.Generator]) -> "LinearOperator":
        """Returns the operator of one batch; only operators with a random part differ from self.

        Args:
            rngs: one generator per image.
        """
        return self


def conjugate_gradients(
    A: Callable[[Tensor], Tensor],
    A_adjoint: Callable[[Tensor], Tensor],
    y: Tensor,
    rho: float,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> Tensor:
    """Returns argmin_x |y - A x|^2 + rho |x|^2, (B, C, H, W), iterated.

    With rho = 0, the x of least norm: A^+ y. Every image has its own steps, and stops on its own,
    so that it does not depend on its company.

    Source: CGLS, Bjorck, "Numerical Methods for Least Squares Problems" (1996), Algorithm 7.4.1.

    Args:
        A: a linear map of images (B, C, H, W).
        A_adjoint: its transpose.
        y: (B, ...), real.
        rho: weight of |x|^2, at least 0.
        tolerance: an image is done once the gradient's norm is below this share of its start.
        max_iterations: when it is left as it is.
    """
    residual, gradient = y, A_adjoint(y)
    x, direction, square = torch.zeros_like(gradient), gradient, _square(gradient)
    enough = tolerance**2 * square
    for _ in range(max_iterations):
        running = square > enough
        if not running.any():
            break
        image = A(direction)
        step = torch.where(running, square / (_square(image) + rho * _square(direction)), 0)
        x = x + _times(step, direction)
        residual = residual - _times(step, image)
        gradient = A_adjoint(residual) - rho * x
        following = torch.where(running, _square(gradient), square)
        direction = gradient + _times(torch.where(running, following / square, 0), direction)
        square = following
    return x


def _square(each: Tensor) -> Tensor:
    """|.|^2 of each image, (B,) float64."""
    return each.double().flatten(1).square().sum(dim=1)


def _times(factors: Tensor, images: Tensor) -> Tensor:
    """Every image times its own factor."""
    return factors.to(images.dtype).view(-1, *[1] * (images.ndim - 1)) * images
