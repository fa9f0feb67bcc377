"""I2SB: a network trained to walk back a bridge from degraded to clean images."""

from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from davi.config.section import FilePath
from davi.operators.operator import Operator
from davi.solvers.base import TRAINING, Noise, Rngs, Solver
from davi.solvers.i2sb_bridge import (
    I2SBModel,
    degraded_end,
    known_pixels,
    sampling_grid,
    with_known,
)
from davi.solvers.i2sb_file import load_i2sb
from davi.solvers.prior import CountedPrior
from davi.system.runtime import normal_each


class BridgeProblem(NamedTuple):
    """What a walk along the bridge knows.

    Attributes:
        model: the network's estimate of the clean end.
        y: (B, *measurement_shape).
        operator: A.
        x1: (B, C, H, W) degraded images on the image grid, where the walk starts.
    """

    model: I2SBModel
    y: Tensor
    operator: Operator
    x1: Tensor


class I2SB(Solver):
    """Image-to-image Schroedinger bridge (Liu et al. 2023), Algorithm 2.

    Per step k -> j: x0 = x_k - f_k net(x_k), then a draw of q(x_j | x0, x_k). As in the authors'
    code the result is x at index 0, which keeps a share f_0^2 / f_k^2 of the state before it (9 %
    after 100 steps). Known pixels of inpainting are those of the measurement, noise included; the
    authors set them anew in every step, here x0 has them, which gives x_j the same distribution.

    Fields:
        checkpoint: the network; run folder, training checkpoint or .safetensors.
        num_steps: network evaluations; DAVI's Table 11 has 1, 20 and 100.
        ot_ode: leave out the noise of the steps; None as the network was trained.
        clip: bring every x0 to [-1, 1].
    """

    label: ClassVar[str] = "I2SB"
    needs: ClassVar[frozenset[str]] = frozenset({TRAINING})
    checkpoint: FilePath
    num_steps: int = Field(20, ge=1, le=999)
    ot_ode: bool | None = None
    clip: bool = False

    def solve(
        self, y: Tensor, operator: Operator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        trained = load_i2sb(self.checkpoint, str(y.device), prior.precision)
        trained.require(y, operator)
        bridge, shape = trained.model.bridge, operator.image_shape
        stochastic = not (bridge.ot_ode if self.ot_ode is None else self.ot_ode)
        x = x1 = degraded_end(y, operator, normal_each(shape, rngs))
        forward_std = bridge.forward_std.tolist()
        problem = BridgeProblem(trained.model, y, operator, x1)
        with prior.evaluations.watching(trained.model.network):
            for k, j in pairwise(sampling_grid(self.num_steps)):
                kept = (forward_std[j] / forward_std[k]) ** 2
                x = (1 - kept) * self.goal(problem, x, k, kept) + kept * x
                if stochastic and j > 0:
                    z = normal_each(shape, rngs).to(x)
                    x = x + (1 - kept) ** 0.5 * forward_std[j] * z
        return x

    def goal(self, problem: BridgeProblem, x: Tensor, k: int, kept: float) -> Tensor:
        """Returns the clean images (B, C, H, W) that a step goes towards.

        Args:
            problem: what is known.
            x: (B, C, H, W) where it is, at index k.
            k: the index.
            kept: weight of x after the step, 1 minus that of the result.
        """
        x0 = problem.model.x0(x, torch.full((len(x),), k, device=x.device))
        x0 = x0.clamp(-1, 1) if self.clip else x0
        return with_known(x0, problem.x1, known_pixels(problem.operator))
