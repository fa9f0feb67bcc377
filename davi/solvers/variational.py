"""What the variational solvers share: a mean that Adam fits to one measurement.

Derivation: docs/solvers.md, "Analytic variational posteriors".
"""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from davi.operators.measurement import lift, require_adjoint
from davi.operators.operator import Operator
from davi.schedule import NUM_STEPS
from davi.solvers.base import Noise, Rngs, Solver
from davi.solvers.prior import CountedPrior
from davi.system.runtime import normal_each

ADAM_BETAS = 0.9, 0.99  # RED-diff's


class VariationalSolver(Solver):
    """Fits the mean of q(x_0 | y) by gradient descent, one diffusion time a step.

    Losses are sums over an image, and Adam works entry by entry: images do not meet.

    Fields:
        num_steps: of Adam, each with one evaluation of the prior.
        learning_rate: of Adam.
        prior_weight: factor of w(t).
        start: the first mean; `Operator.A_dagger`, the lifted measurement or A^T y.
    """

    num_steps: int = Field(default=1000, ge=1, le=NUM_STEPS)
    learning_rate: float = Field(default=0.1, gt=0)
    prior_weight: float = Field(default=1.0, ge=0)
    start: Literal["pseudo_inverse", "lifted", "adjoint"] = "pseudo_inverse"

    def require(self, operator: Operator, noise: Noise) -> None:
        """Refuses what `Solver.require` does, and to start from an adjoint that is not there.

        Raises:
            InputError: says what is lacking.
        """
        super().require(operator, noise)
        if self.start == "adjoint":
            require_adjoint(operator, f"{self.label}: start")

    def first_mean(self, y: Tensor, operator: Operator) -> Tensor:
        """Returns the mean to start from, (B, C, H, W)."""
        if self.start == "pseudo_inverse":
            return operator.A_dagger(y)
        if self.start == "adjoint":
            return operator.A_adjoint(y)
        return lift(y, operator.image_shape)


def descend(
    start: Tensor,
    gradient: Callable[[Tensor, int], Tensor],
    times: list[int],
    learning_rates: list[float],
) -> tuple[Tensor, Tensor]:
    """Takes one step of Adam for each diffusion time.

    Args:
        start: (B, C, H, W).
        gradient: of the loss, from a mean and a time.
        times: in the order of the steps.
        learning_rates: one for each.

    Returns:
        The mean before and after the last step.
    """
    mean = start.clone(memory_format=torch.contiguous_format)
    adam = torch.optim.Adam([mean], betas=ADAM_BETAS)
    for t, learning_rate in zip(times, learning_rates, strict=True):
        before = mean.clone()
        adam.param_groups[0]["lr"] = learning_rate
        mean.grad = gradient(before, t)
        adam.step()
    return before, mean


def noise_gap(prior: CountedPrior, mean: Tensor, sigma: float, t: int, eps: Tensor) -> Tensor:
    """Returns eps_theta(x_t) - eta_t eps for x_t ~ q(x_t | y), q(x_0 | y) = N(mean, sigma^2 I).

    Source: Eq. 34, with its sign turned. Over sqrt(1 - alpha_bar_t), it is the score of q minus
    that of the prior. With sigma = 0, eta_t is 1 (Eq. 36).

    Args:
        prior: gives eps_theta.
        mean: (B, C, H, W).
        sigma: standard deviation of q(x_0 | y).
        t: one diffusion time for the batch.
        eps: standard normal, shape as mean.
    """
    alpha_bar = prior.alpha_bar(t)
    spread = (alpha_bar * sigma**2 + 1 - alpha_bar) ** 0.5
    x_t = alpha_bar**0.5 * mean + spread * eps
    return prior.predict(x_t, t).eps - (1 - alpha_bar) ** 0.5 / spread * eps


def normal_like(image: Tensor, rngs: Rngs) -> Tensor:
    """Returns standard normal draws, one image per generator, in shape and dtype of `image`."""
    return normal_each(tuple(image.shape[1:]), rngs).to(image.dtype)
