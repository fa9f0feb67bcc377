"""What guides a state by the measurement: the gradient of the residual through the prior."""

from collections.abc import Callable

import torch
from torch import Tensor

from davi.operators.operator import Operator
from davi.solvers.prior import CountedPrior


def norm(residual: Tensor) -> Tensor:
    """Returns the norm of each residual (B, M), (B,)."""
    return residual.norm(dim=1)


def weighted_norm(weight: Tensor, residual: Tensor) -> Tensor:
    """Returns sqrt(r^T diag(weight) r) of each residual r (B, M), (B,); weight as the residual."""
    return norm(weight.sqrt() * residual)


def half_square(residual: Tensor) -> Tensor:
    """Returns half of the squared norm of each residual (B, M), (B,)."""
    return residual.square().sum(dim=1) / 2


def predict_and_pull(
    x_t: Tensor,
    t: int,
    y: Tensor,
    operator: Operator,
    prior: CountedPrior,
    clip: bool,
    misfit: Callable[[Tensor], Tensor] = norm,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns x0(x_t), the variance channels, and the gradient in x_t of the misfit of y - A x0.

    Args:
        x_t: (B, C, H, W) at time t.
        t: diffusion time.
        y: (B, *measurement_shape).
        operator: A.
        prior: gives x0.
        clip: clip x0 to [-1, 1], for the gradient, too.
        misfit: of residuals, such as `norm`.
    """
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_(True)
        x0, _, variance = prior.predict(x_t, t)
        x0 = x0.clamp(-1, 1) if clip else x0
        value = misfit((y - operator.A(x0)).flatten(1)).sum()
        (gradient,) = torch.autograd.grad(value, x_t)
    return x0.detach(), variance.detach(), gradient
