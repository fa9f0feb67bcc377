"""Everything random of an iteration of Algorithm 1."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from davi.bridge import PosteriorBridge
from davi.operators.linear import LinearOperator
from davi.operators.measurement import ForwardModel
from davi.system.runtime import draw_each, normal_each


@dataclass(frozen=True, kw_only=True)
class StepInputs:
    """What one iteration starts from: lines 2-4 and 7-8 of Algorithm 1.

    Attributes:
        x0: (B, C, H, W) clean images.
        y: (B, *measurement_shape) measurements, by `operator`.
        a: (B,) bridge index.      z: (B, C, H, W) noise of the bridge.
        t: (B,) diffusion index.   eps: (B, C, H, W) noise of the diffusion.
    """

    x0: Tensor
    y: Tensor
    operator: LinearOperator
    a: Tensor
    z: Tensor
    t: Tensor
    eps: Tensor


@dataclass(frozen=True, kw_only=True)
class InputDraws:
    """Draws inputs, each a function of seed, key and position in the global batch only.

    Attributes:
        forward_model: operator and noise.
        bridge: has the distribution of a.
        t_ikl: T, the exclusive upper bound of the diffusion index.
        rngs: gives the generators of positions for a key, see `Learner.rngs`.
    """

    forward_model: ForwardModel
    bridge: PosteriorBridge
    t_ikl: int
    rngs: Callable[..., list[torch.Generator]]

    def draw(self, x0: Tensor, positions: Sequence[int], *key: int | str) -> StepInputs:
        """Returns the inputs that belong to images.

        Args:
            x0: (B, C, H, W) clean images in [-1, 1].
            positions: of these images in the global batch.
            key: what the draws are for.
        """
        y, operator = self.forward_model.measure(x0, self.rngs(positions, *key, "measurement"))
        rngs = self.rngs(positions, *key, "step")
        return StepInputs(x0=x0, y=y, operator=operator, **self._step_draws(x0, rngs))

    def redraw(self, inputs: StepInputs, positions: Sequence[int], *key: int | str) -> StepInputs:
        """Returns the same images and measurements with bridge and diffusion drawn anew."""
        rngs = self.rngs(positions, *key, "second step")
        return replace(inputs, **self._step_draws(inputs.x0, rngs))

    def _step_draws(self, x0: Tensor, rngs: list[torch.Generator]) -> dict[str, Tensor]:
        return {
            "a": self.bridge.sample_time(rngs),
            "z": normal_each(x0.shape[1:], rngs),
            "t": draw_each(
                lambda rng: torch.randint(self.t_ikl, (), generator=rng, device=rng.device), rngs
            ),
            "eps": normal_each(x0.shape[1:], rngs),
        }
