"""DPS: ancestral sampling, pushed downhill on the residual of the predicted clean image."""

from functools import partial
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from davi.operators.noise import ClippedNoise, GaussianNoise, PoissonNoise
from davi.operators.operator import Operator
from davi.priors.sampling import ancestral_step, spaced_schedule, spaced_times
from davi.schedule import NUM_STEPS
from davi.solvers.base import GRADIENT, NOISE_LEVEL, Noise, Rngs, Solver
from davi.solvers.prior import CountedPrior
from davi.solvers.residual_gradient import half_square, norm, predict_and_pull, weighted_norm
from davi.system.errors import InputError
from davi.system.runtime import normal_each


class Dps(Solver):
    """x_{t-1} = ancestral step - zeta grad_{x_t} |y - A x0(x_t)|.

    Source: Chung et al. 2023, Diffusion Posterior Sampling, Algorithm 1, with the step size of the
    official code: on the gradient of the norm itself, which is half of that of the squared norm
    over the norm. The norm is that of one image. Knows nothing of the noise; zeta is what balances
    measurement and prior, and depends on the task, the image size and the number of steps.

    With annealed guidance the step is that of an ancestral step whose score has grad log p(y | x_t)
    added to it, for which p(y | x_t) = N(A x0, sigma_y^2 + sigma_t^2) is taken, so that

        x_{t-1} = ancestral step - zeta beta / sqrt(1 - beta)
                  grad_{x_t} |y - A x0(x_t)|^2 / (2 (sigma_y^2 + sigma_t^2)),

    with beta that of the step and sigma_t^2 = (1 - abar_t) / abar_t, the noise of
    x_t / sqrt(abar_t). Here zeta = 1 is Bayes' rule, for every task and number of steps. Source:
    Jalal et al. 2021, Robust Compressed Sensing MRI, for the variance; as the guidance "annealed"
    of the library deepinv.

    For Poisson noise the norm is sqrt(r^T Lambda r) with the diagonal Lambda of DAVI's Eq. 37,
    which counts dark pixels more. Source: DPS, Algorithm 2, with the step size of the norm as
    above. The official code has the mean of |r| / |y| over the pixels instead, which is the plain
    norm times a number.

    Fields:
        num_steps: evenly spaced times, the last and the first included; the paper takes all.
        guidance: norm, as in the paper for Gaussian noise, poisson, as there for Poisson noise, or
            annealed.
        zeta: step size.
        clip: clip x0 to [-1, 1], for the gradient, too.
    """

    label: ClassVar[str] = "DPS"
    needs: ClassVar[frozenset[str]] = frozenset({NOISE_LEVEL, GRADIENT})
    num_steps: int = Field(NUM_STEPS, ge=1, le=NUM_STEPS)
    guidance: Literal["norm", "poisson", "annealed"] = "norm"
    zeta: float = Field(ge=0)
    clip: bool = True

    def require(self, operator: Operator, noise: Noise) -> None:
        """See `Solver.require`; with the plain norm it takes any noise."""
        plain = noise.noise if isinstance(noise, ClippedNoise) else noise
        if self.guidance == "poisson" and not isinstance(plain, PoissonNoise):
            raise InputError(
                f"DPS with guidance: poisson needs Poisson noise, here is {type(plain).__name__}; "
                "set guidance to norm"
            )
        super().require(operator, noise if self.guidance == "annealed" else GaussianNoise(0.0, 0.0))

    def solve(
        self, y: Tensor, operator: Operator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        times = spaced_times(len(prior.schedule), self.num_steps)
        spaced = spaced_schedule(prior.schedule, times)
        x_t = normal_each(operator.image_shape, rngs).to(y)
        for step, t in zip(reversed(range(self.num_steps)), times, strict=True):
            misfit, rate = norm, self.zeta
            if self.guidance == "poisson":
                misfit = partial(weighted_norm, noise.consistency_weight(y).flatten(1))
            elif self.guidance == "annealed":
                beta = spaced.betas[step].item()
                scale = beta / (1 - beta) ** 0.5 / (noise.sigma_low**2 + prior.sigma(t) ** 2)
                misfit, rate = half_square, self.zeta * scale
            x0, variance, gradient = predict_and_pull(x_t, t, y, operator, prior, self.clip, misfit)
            # Unguided here: the gradient is taken at x_t, but acts after the step.
            x_t = ancestral_step(spaced, step, x_t, x0, variance, rngs) - rate * gradient
        return x_t
