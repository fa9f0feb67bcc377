"""MCG: the gradient of DPS where A sees nothing, and a projection onto the noised measurement."""

from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from davi.operators.gaussian_blur import GaussianBlur
from davi.operators.inpainting import Inpainting
from davi.operators.linear import LinearOperator
from davi.operators.super_resolution import SuperResolution
from davi.priors.sampling import ancestral_step, spaced_schedule, spaced_times
from davi.schedule import NUM_STEPS
from davi.solvers.base import GRADIENT, LINEAR, Noise, Rngs, Solver
from davi.solvers.grids import steps_of
from davi.solvers.prior import CountedPrior
from davi.solvers.residual_gradient import predict_and_pull
from davi.system.errors import InputError
from davi.system.runtime import normal_each

PROJECTED_BY_DPS = (SuperResolution, Inpainting, GaussianBlur)


class Mcg(Solver):
    """x'' = x' - zeta (I - A^+ A) G, x_s = x'' + A^+ (y_s - A x''), G = grad_{x_t} |y - A x0(x_t)|.

    x' is the ancestral step. Source: Chung et al. 2022, "Improving Diffusion Models for Inverse
    Problems using Manifold Constraints"; zeta as in `Dps`. y_s = sqrt(abar_s) y +
    sqrt(1 - abar_s) A z has noise z of an image, for noise of a measurement would be 1 / s times
    too large where the singular value is s. The projection replaces A^+ A x'', so that G is not
    restricted to the rest in the code. Knows nothing of the noise: the last projection leaves
    all of it in x. Where A^+ of a blur does not invert, x'' is kept.

    `projection: as_run` is what the option "mcg" of the DPS repository does, probably what the
    tables of others show: y is noised to level t and not s, in the measurement; G acts everywhere;
    and the projection is none. With up nearest, it is x'' - up(A x'') + up(y_t) for
    super-resolution, and (I - A) y_t - A x'' otherwise, so that for inpainting known pixels change
    their sign and the hole gets noise. Denoising and colorization have no such projection there.

    Fields:
        num_steps: evenly spaced times, the last and the first included; the paper takes all.
        zeta: step size.
        projection: exact or as_run.
        clip: clip x0 to [-1, 1], for the gradient, too.
    """

    label: ClassVar[str] = "MCG"
    needs: ClassVar[frozenset[str]] = frozenset({GRADIENT, LINEAR})
    num_steps: int = Field(NUM_STEPS, ge=1, le=NUM_STEPS)
    zeta: float = Field(ge=0)
    projection: Literal["exact", "as_run"] = "exact"
    clip: bool = True

    def require(self, operator: LinearOperator, noise: Noise) -> None:
        """See `Solver.require`; as_run refuses what the DPS repository does not project."""
        super().require(operator, noise)
        if self.projection == "as_run" and not isinstance(operator, PROJECTED_BY_DPS):
            raise InputError(
                f"MCG as it ran knows no projection for {type(operator).__name__}, only for "
                "super-resolution, inpainting and Gaussian blur; set projection to exact"
            )

    def solve(
        self, y: Tensor, operator: LinearOperator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        times = spaced_times(len(prior.schedule), self.num_steps)
        spaced = spaced_schedule(prior.schedule, times)
        x_t = normal_each(operator.image_shape, rngs).to(y)
        for step, (t, s) in zip(reversed(range(self.num_steps)), steps_of(times), strict=True):
            x0, variance, gradient = predict_and_pull(x_t, t, y, operator, prior, self.clip)
            x = ancestral_step(spaced, step, x_t, x0, variance, rngs)
            x = x - self.zeta * gradient
            if self.projection == "exact":
                z = operator.A(normal_each(operator.image_shape, rngs).to(y))
                noised = noised_to(y, z, prior.alpha_bar(s))
                x_t = x + operator.A_dagger(noised - operator.A(x))
            else:
                z = normal_each(operator.measurement_shape, rngs).to(y)
                noised = noised_to(y, z, prior.alpha_bar(t))
                x_t = project_as_run(x, noised, operator)
        return x_t


def noised_to(y: Tensor, z: Tensor, alpha_bar: float) -> Tensor:
    """Returns y diffused to a level with the noise z, shape as both."""
    return alpha_bar**0.5 * y + (1 - alpha_bar) ** 0.5 * z


def project_as_run(x: Tensor, noised: Tensor, operator: LinearOperator) -> Tensor:
    """Returns what the DPS repository's `mcg` makes of x (B, C, H, W) and a noised measurement."""
    if isinstance(operator, SuperResolution):
        return x + F.interpolate(noised - operator.A(x), size=x.shape[-2:], mode="nearest")
    return noised - operator.A(noised) - operator.A(x)
