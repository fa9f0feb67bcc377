"""Everything random of an iteration of Algorithm 1."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from davi.bridge import PosteriorBridge
from davi.operators.measurement import ForwardModel
from davi.operators.operator import Operator
from davi.schedule import Schedule
from davi.system.runtime import draw_each, normal_each


@dataclass(frozen=True, kw_only=True)
class StepInputs:
    """What one iteration starts from: lines 2-4 and 7-8 of Algorithm 1.

    Attributes:
        x0: (B, C, H, W) clean images.
        y: (B, *measurement_shape) measurements, by `operator`.
        sigma: deviation of the noise in y; broadcasts against it.
        a: (B,) bridge index.      z: (B, C, H, W) noise of the bridge.
        t: (B,) diffusion index.   eps: (B, C, H, W) noise of the diffusion.
        other_z: noise of the bridge for a second sample, see `losses.energy_surrogate`.
    """

    x0: Tensor
    y: Tensor
    operator: Operator
    sigma: Tensor
    a: Tensor
    z: Tensor
    t: Tensor
    eps: Tensor
    other_z: Tensor


def uniform_time(end: int, rng: torch.Generator) -> Tensor:
    """Returns a diffusion index (), int64, uniform below `end`, which Table 12 calls T."""
    return torch.randint(end, (), generator=rng, device=rng.device)


def log_uniform_time(schedule: Schedule, low: float, high: float, rng: torch.Generator) -> Tensor:
    """Returns a diffusion index (), int64, whose noise is log-uniform.

    Between the bounds low and high of sqrt((1 - alpha_bar) / alpha_bar), on the [-1, 1] scale.
    """
    u = torch.rand((), generator=rng, device=rng.device, dtype=torch.float64)
    return schedule.index_of_noise(low * (high / low) ** u)


def time_draws(
    schedule: Schedule, end: int, noise_range: tuple[float, float] | None
) -> Callable[[torch.Generator], Tensor]:
    """Returns what draws times: log-uniform noise in a range; None: uniform times below `end`."""
    if noise_range is None:
        return partial(uniform_time, end)
    return partial(log_uniform_time, schedule, *noise_range)


@dataclass(frozen=True, kw_only=True)
class InputDraws:
    """Draws inputs, each a function of seed, key and position in the global batch only.

    Attributes:
        forward_model: operator and noise.
        bridge: has the distribution of a.
        draw_time: returns a diffusion index () from a generator.
        rngs: gives the generators of positions for a key, see `Learner.rngs`.
    """

    forward_model: ForwardModel
    bridge: PosteriorBridge
    draw_time: Callable[[torch.Generator], Tensor]
    rngs: Callable[..., list[torch.Generator]]

    def draw(self, x0: Tensor, positions: Sequence[int], *key: int | str) -> StepInputs:
        """Returns the inputs that belong to images.

        Args:
            x0: (B, C, H, W) clean images in [-1, 1].
            positions: of these images in the global batch.
            key: what the draws are for.
        """
        rngs = self.rngs(positions, *key, "measurement")
        y, operator, sigma = self.forward_model.measure_with_deviation(x0, rngs)
        draws = self._step_draws(x0, self.rngs(positions, *key, "step"))
        other_z = normal_each(x0.shape[1:], self.rngs(positions, *key, "other sample"))
        return StepInputs(x0=x0, y=y, operator=operator, sigma=sigma, other_z=other_z, **draws)

    def redraw(self, inputs: StepInputs, positions: Sequence[int], *key: int | str) -> StepInputs:
        """Returns the same images and measurements with bridge and diffusion drawn anew."""
        rngs = self.rngs(positions, *key, "second step")
        return replace(inputs, **self._step_draws(inputs.x0, rngs))

    def _step_draws(self, x0: Tensor, rngs: list[torch.Generator]) -> dict[str, Tensor]:
        return {
            "a": self.bridge.sample_time(rngs),
            "z": normal_each(x0.shape[1:], rngs),
            "t": draw_each(self.draw_time, rngs),
            "eps": normal_each(x0.shape[1:], rngs),
        }
