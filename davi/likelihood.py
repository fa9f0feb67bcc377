"""What the measurement says of a noised image: likelihood scores grad log p(y | x_t).

y = A x + n with Gaussian noise of known deviation sigma. Each image has its own, or each entry of
y, as Poisson noise has in the quadratic approximation of Eq. 37; sigma^2 is then a diagonal matrix.
With one for each image, A^T y and the operator's singular values are all that is needed; with one
for each entry A A^T has to be diagonal, but for `at_sample`. Scores are with respect to the
diffusion's own x_t = sqrt(abar) x0 + sqrt(1 - abar) eps; s = (1 - abar) / abar is the variance of
the noise in x_t / sqrt(abar).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from davi.operators.operator import Operator
from davi.operators.svd import SVDOperator
from davi.score import FrozenPrior


def at_sample(
    y: Tensor, operator: Operator, sigma: float | Tensor, x0_hat: Tensor, alpha_bar: Tensor
) -> Tensor:
    """Returns A^T sigma^-2 (y - A x0_hat) / sqrt(abar): as if x_t showed x0_hat itself.

    All that an operator without singular values allows. If A is not linear, A^T is that of its
    Jacobian at x0_hat. Biased where noise hides x0_hat.

    Args:
        y: (B, *measurement_shape) measurements.
        operator: A.
        sigma: of the noise, on the [-1, 1] scale; one for all, or broadcasts against y.
        x0_hat: (B, C, H, W) the sample that was noised.
        alpha_bar: broadcasts against x0_hat.
    """
    residual, square = y - operator.A(x0_hat), _square(sigma, y)
    if _is_white(sigma):
        return operator.vjp(x0_hat, residual) / (square * alpha_bar.sqrt())
    return operator.vjp(x0_hat, residual / square) / alpha_bar.sqrt()


def at_noised(
    y: Tensor, operator: SVDOperator, sigma: float | Tensor, x_t: Tensor, alpha_bar: Tensor
) -> Tensor:
    """Returns A^T (sigma^2 + s A A^T)^-1 (y - A x) / sqrt(abar) with x = x_t / sqrt(abar).

    Exact for a prior that is flat. Arguments as of `at_sample`, with x_t for x0_hat.
    """
    x, s = x_t / alpha_bar.sqrt(), (1 - alpha_bar) / alpha_bar
    return _solve(y - operator.A(x), operator, sigma, s) / alpha_bar.sqrt()


def through_denoiser(
    y: Tensor,
    operator: SVDOperator,
    sigma: float | Tensor,
    x_t: Tensor,
    t: Tensor,
    prior: FrozenPrior,
    error: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns eps_theta and J^T A^T (sigma^2 + r^2 A A^T)^-1 (y - A D), without graph.

    D is the prior's E[x0 | x_t], J = dD / dx_t. Exact for a Gaussian prior whose x0 given x_t has
    the white covariance r^2 I.
    Source: Song et al. 2023, Pseudoinverse-Guided Diffusion Models, Eq. 8.

    Args:
        y: (B, *measurement_shape) measurements.
        operator: A.
        sigma: of the noise, on the [-1, 1] scale; one for all, or broadcasts against y.
        x_t: (B, C, H, W) noised images.
        t: (B,) diffusion index.
        prior: gives D.
        error: r^2, the mean square error of D at x_t; broadcasts against x_t.
    """
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_(True)
        eps_theta = prior.model.eps(x_t, t)
        denoised = prior.model.schedule.x0_from_eps(x_t, t, eps_theta)
    residual = y - operator.A(denoised.detach())
    (score,) = torch.autograd.grad(denoised, x_t, _solve(residual, operator, sigma, error))
    return eps_theta.detach(), score


def posterior_weight(
    direction: Tensor,
    s: Tensor,
    operator: SVDOperator,
    sigma: float | Tensor,
    deviation: float,
    power: int,
) -> Tensor:
    """Returns V diag(4 (M / (M + s))^p s / (M + s)) V^T of a direction, shape as it.

    M = 1 / (S^2 / sigma^2 + 1 / deviation^2) is the variance of the posterior under a white prior;
    if each entry of y has its own sigma^2, their mean over the image is taken for all.
    The weight lets each singular direction learn at the noise levels that show its spread: s near
    M. 4 makes it 1 there for p = 1.

    Args:
        direction: (B, C, H, W).
        s: (1 - abar) / abar, broadcasts against the direction.
        operator: A.
        sigma: of the noise, on the [-1, 1] scale; one for all, or broadcasts against y.
        deviation: of the pixels under a white prior.
        power: p.
    """
    square = _square(sigma, direction)
    if isinstance(square, Tensor):
        square = square.mean(dim=(1, 2, 3), keepdim=True)
    precision = operator.singular_values.to(direction.dtype).square() / square
    variance = 1 / (precision + deviation**-2)
    weight = 4 * (variance / (variance + s)) ** power * s / (variance + s)
    return operator.V(weight * operator.V_adjoint(direction))


def has_diagonal_gram(operator: SVDOperator, device: torch.device) -> bool:
    """Whether A A^T is diagonal, as noise with a sigma for each entry of y needs it."""
    rng = torch.Generator(device).manual_seed(0)
    shape = (1, *operator.measurement_shape)
    y = torch.randn(shape, generator=rng, device=device, dtype=torch.float64)
    return torch.allclose(operator.A(operator.A_adjoint(y)), _gram_diagonal(operator, y) * y)


@torch.no_grad()
def denoising_error(prior: FrozenPrior, images: Tensor, eps: Tensor, num_times: int) -> Tensor:
    """Returns the mean square error of the prior's E[x0 | x_t] at every t, (T,) float64.

    Measured at times between which the noise grows by a constant factor, and interpolated.

    Args:
        prior: gives E[x0 | x_t] and the diffusion.
        images: (B, C, H, W) in [-1, 1].
        eps: standard normal, shape as images.
        num_times: at how many times it is measured.
    """
    schedule = prior.model.schedule
    log_noise = np.log(((1 - schedule.alpha_bar) / schedule.alpha_bar).numpy()) / 2
    wanted = torch.from_numpy(np.exp(np.linspace(log_noise[0], log_noise[-1], num_times)))
    times = schedule.index_of_noise(wanted).unique()
    errors = []
    for time in times.tolist():
        t = torch.full((len(images),), time, device=images.device)
        x_t = schedule.add_noise(images, t, eps)
        denoised = schedule.x0_from_eps(x_t, t, prior.eps(x_t, t))
        errors.append((denoised - images).square().mean().item())
    return torch.from_numpy(np.exp(np.interp(log_noise, log_noise[times], np.log(errors))))


@dataclass(frozen=True)
class PosteriorTarget:
    """p(x_t | y), as prior times likelihood, for Gaussian noise of known deviations.

    Attributes:
        prior: gives the noise in x_t, E[x0 | x_t] and the diffusion.
        form: what A is applied to in grad log p(y | x_t): "sample" (see `at_sample`), "noised"
            (`at_noised`) or "denoised" (`through_denoiser`).
        error: for "denoised", (T,) mean square error of E[x0 | x_t] at each t.
        spectral_power: p of `posterior_weight`; None: directions are not weighed.
        image_deviation: of the pixels in that weight.
    """

    prior: FrozenPrior
    form: str
    error: Tensor | None = None
    spectral_power: int | None = None
    image_deviation: float = 0.5

    def parts(
        self,
        y: Tensor,
        operator: Operator,
        sigma: float | Tensor,
        x0_hat: Tensor,
        x_t: Tensor,
        t: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Returns the prior's noise eps_theta in x_t and grad log p(y | x_t), without graph.

        Args:
            y: (B, *measurement_shape) measurements.
            operator: A; but for "sample" an SVDOperator, and one with `has_diagonal_gram` if each
                entry of y has its own sigma.
            sigma: of the noise in y; one for all, or broadcasts against y.
            x0_hat: (B, C, H, W) samples.
            x_t: what they became at t.
            t: (B,) diffusion index.
        """
        if self.form == "denoised":
            error = self.error[t].to(x_t.dtype)[:, None, None, None]
            return through_denoiser(y, operator, sigma, x_t, t, self.prior, error)
        alpha_bar = self.prior.model.schedule.alpha_bar_t(t, x_t)
        if self.form == "noised":
            score = at_noised(y, operator, sigma, x_t, alpha_bar)
        else:
            score = at_sample(y, operator, sigma, x0_hat, alpha_bar)
        return self.prior.eps(x_t, t), score

    def weigh(
        self, direction: Tensor, s: Tensor, operator: Operator, sigma: float | Tensor
    ) -> Tensor:
        """Returns a direction at the noise s = (1 - abar) / abar, weighed if that is wanted."""
        if self.spectral_power is None:
            return direction
        return posterior_weight(
            direction, s, operator, sigma, self.image_deviation, self.spectral_power
        )


def _solve(
    residual: Tensor, operator: SVDOperator, sigma: float | Tensor, variance: Tensor
) -> Tensor:
    """A^T (sigma^2 + variance A A^T)^-1 of a residual, an image."""
    square = _square(sigma, residual)
    if not _is_white(sigma):
        gram = _gram_diagonal(operator, residual)
        return operator.A_adjoint(residual / (square + variance * gram))
    values = operator.singular_values.to(residual.dtype)
    spectrum = values / (square + variance * values.square())
    return operator.V(spectrum * operator.U_adjoint(residual))


def _gram_diagonal(operator: SVDOperator, like: Tensor) -> Tensor:
    """The diagonal of an A A^T that has nothing else; broadcasts against measurements."""
    return operator.A(operator.A_adjoint(torch.ones_like(like[:1])))


def _is_white(sigma: float | Tensor) -> bool:
    """Whether all entries of an image's measurement have one deviation."""
    return not isinstance(sigma, Tensor) or sigma.numel() == len(sigma)


def _square(sigma: float | Tensor, like: Tensor) -> float | Tensor:
    """sigma^2, squared before it is rounded to the dtype of `like`."""
    return (sigma**2).to(like.dtype) if isinstance(sigma, Tensor) else sigma**2
