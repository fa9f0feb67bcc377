"""Linear operators: A and its adjoint, and what follows from them."""

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from davi.operators.operator import Operator

# Of |A^T (y - A x) - rho x|, relative to its start. So what A shrinks to less than a hundredth of
# the rest, 1e-4 in A^T A, is hardly inverted, which would only amplify noise.
TOLERANCE = 1e-4
MAX_ITERATIONS = 100  # each with one A and one A^T


class LinearOperator(Operator):
    """A linear operator on images, see `Operator`; a subclass gives A and A_adjoint."""

    @abstractmethod
    def A_adjoint(self, y: Tensor) -> Tensor:
        """Returns A^T y, an image (B, C, H, W)."""

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        """Returns A^T r, see `Operator.vjp`."""
        return self.A_adjoint(r)

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
