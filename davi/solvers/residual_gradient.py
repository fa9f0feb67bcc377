"""What guides a state by the measurement: the gradient of the residual through the prior."""

import torch
from torch import Tensor

from davi.operators.linear import LinearOperator
from davi.solvers.prior import CountedPrior


def predict_and_pull(
    x_t: Tensor, t: int, y: Tensor, operator: LinearOperator, prior: CountedPrior, clip: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns x0(x_t), the variance channels, and the gradient in x_t of |y - A x0|.

    Args:
        x_t: (B, C, H, W) at time t; the norm is that of each image.
        t: diffusion time.
        y: (B, *measurement_shape).
        operator: A.
        prior: gives x0.
        clip: clip x0 to [-1, 1], for the gradient, too.
    """
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_(True)
        x0, _, variance = prior.predict(x_t, t)
        x0 = x0.clamp(-1, 1) if clip else x0
        residual = (y - operator.A(x0)).flatten(1).norm(dim=1).sum()
        (gradient,) = torch.autograd.grad(residual, x_t)
    return x0.detach(), variance.detach(), gradient
