"""Steps of samplers in the coordinates of A = U diag(s) V^T, where every coordinate stands alone.

A state is V^T x. Every correction by the measurement is x + gain (U^T y - s x); the methods differ
in their gains and in the noise they add. The step functions are pure. Weights are float64, for
they span many orders of magnitude, and never hold 1 / s of a coordinate that A hardly sees.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from davi.operators.svd import SVDOperator
from davi.schedule import NUM_STEPS
from davi.solvers.base import Noise
from davi.solvers.prior import CountedPrior


@dataclass(frozen=True)
class Observation:
    """A measurement in spectral coordinates: coefficients = s x + sigma_y n.

    Attributes:
        values: s, float64, broadcasts against the coefficients; 0 where nothing is seen.
        coefficients: U^T y, (B, C, H, W); 0 where nothing is seen.
        sigma_y: of the noise, positive.
    """

    values: Tensor
    coefficients: Tensor
    sigma_y: float

    def correct(self, x: Tensor, gain: Tensor) -> Tensor:
        """Returns x + gain (U^T y - s x), shape as x."""
        residual = self.coefficients - self.values.to(x.dtype) * x
        return x + gain.to(x.dtype) * residual


def observe(y: Tensor, operator: SVDOperator, noise: Noise, prior: CountedPrior) -> Observation:
    """Returns the measurement in spectral coordinates.

    A coordinate in which y is noisier than the last x_t of the diffusion counts as unseen: its
    signal-to-noise ratio is below 1e-4, and the exact blur has many of them, s down to 1e-20. In
    float32 y has a rounding error, so sigma_y is at least that, even where the noise is 0.
    """
    sigma_y = max(noise.sigma_low, torch.finfo(y.dtype).eps)
    values = operator.singular_values
    seen = values * prior.sigma(NUM_STEPS - 1) > sigma_y
    coefficients = operator.U_adjoint(y) * seen
    return Observation(torch.where(seen, values, 0.0), coefficients, sigma_y)


def predict(
    prior: CountedPrior, operator: SVDOperator, x: Tensor, t: int, clip: bool
) -> tuple[Tensor, Tensor]:
    """Returns V^T x0 and V^T eps that the network says of the state x at time t, shapes as x.

    With clip, x0 is clamped to [-1, 1]; eps stays what the network said.
    """
    prediction = prior.predict(operator.V(x), t)
    x0 = prediction.x0.clamp(-1, 1) if clip else prediction.x0
    return operator.V_adjoint(x0), operator.V_adjoint(prediction.eps)


def ddrm_step(
    x0: Tensor,
    eps: Tensor,
    z: Tensor,
    observation: Observation,
    alpha_bar: float,
    eta: float,
    eta_b: float = 1.0,
) -> Tensor:
    """Returns the next state, at the level alpha_bar; of DDRM, and with eta_b = 1 of DDNM+.

    With sigma the noise of the level, in x_t / sqrt(alpha_bar), per coordinate:
    less noise in y / s than sigma: (1 - eta_b) x0 + eta_b y / s, with noise topped up to sigma;
    more noise in y / s: x0, and one part of its noise is that of y, the other z;
    unseen: x0, and one part of its noise is eps, the other z.

    Args:
        x0: predicted, in spectral coordinates.
        eps: predicted, shape as x0.
        z: standard normal noise, shape as x0.
        observation: of x_0.
        alpha_bar: of the time stepped to.
        eta: share of fresh noise where y is noisier than the level.
        eta_b: share of y where it is not.
    """
    sigma = ((1 - alpha_bar) / alpha_bar) ** 0.5
    s, sigma_y, kept = observation.values, observation.sigma_y, (1 - eta**2) ** 0.5
    exact, unseen = s * sigma > sigma_y, s == 0
    safe = torch.where(exact, s, 1.0)
    gain = torch.where(exact, eta_b / safe, torch.where(unseen, 0 * s, kept * sigma / sigma_y))
    topped_up = (sigma**2 - (eta_b * sigma_y / safe) ** 2).clamp(min=0).sqrt()
    weight_z = torch.where(exact, topped_up, eta * sigma)
    weight_eps = torch.where(unseen, kept * sigma, 0 * s)
    noise = weight_z.to(x0.dtype) * z + weight_eps.to(x0.dtype) * eps
    return alpha_bar**0.5 * (observation.correct(x0, gain) + noise)
