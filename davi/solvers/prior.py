"""The diffusion prior as solvers see it: every evaluation is counted."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from davi.priors.analytic import GaussianMixturePrior
from davi.schedule import Schedule
from davi.score import ScoreModel

CLEAN = -1  # the time after the last one, where alpha_bar is 1


class Prediction(NamedTuple):
    """What the network says of x_t.

    Attributes:
        x0: Tweedie's estimate E[x_0 | x_t], unclipped, shape as x_t.
        eps: the predicted noise, shape as x_t.
        variance: the further output channels; none if the network has learned no variance.
    """

    x0: Tensor
    eps: Tensor
    variance: Tensor


@dataclass(eq=False)
class Evaluations:
    """Counts network evaluations image by image: a batch of 8 is 8, with 5 particles each 40.

    Attributes:
        on_forward: told of every forward count as it happens, for a progress bar.
        forward: images that went through a network.
        backward: images whose gradient came back through one.
    """

    on_forward: Callable[[int], None] = lambda count: None
    forward: int = 0
    backward: int = 0

    def count(self, output: Tensor) -> None:
        """Counts the evaluation that gave this output, and its backward pass if one follows."""
        self.forward += len(output)
        self.on_forward(len(output))
        if output.requires_grad:
            output.register_hook(self._count_backward)

    def _count_backward(self, gradient: Tensor) -> None:
        self.backward += len(gradient)

    @contextlib.contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Counts the evaluations of another network, for methods that bring their own."""
        handle = network.register_forward_hook(lambda module, inputs, output: self.count(output))
        try:
            yield
        finally:
            handle.remove()


class CountedPrior:
    """A frozen diffusion prior. With a time goes one index for the whole batch, 0 .. 999.

    Gradients pass through it to x_t if x_t asks for them, never to its weights.

    Args:
        model: the prior.
        evaluations: where to count.

    Attributes:
        schedule: its diffusion.
        precision: what its network runs in, for methods that bring their own.
        evaluations: as given.
    """

    def __init__(
        self, model: ScoreModel | GaussianMixturePrior, evaluations: Evaluations | None = None
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.schedule: Schedule = model.schedule
        self.precision = getattr(model, "precision", "fp32")
        self.evaluations = evaluations or Evaluations()
        self._alpha_bar = [*self.schedule.alpha_bar.tolist(), 1.0]  # the last one is CLEAN's

    def alpha_bar(self, t: int) -> float:
        """Returns alpha_bar at time t; 1 at CLEAN."""
        return self._alpha_bar[t]

    def sigma(self, t: int) -> float:
        """Returns sqrt((1 - alpha_bar) / alpha_bar), the noise in x_t / sqrt(alpha_bar)."""
        return ((1 - self.alpha_bar(t)) / self.alpha_bar(t)) ** 0.5

    def predict(self, x_t: Tensor, t: int) -> Prediction:
        """Returns what the network says of x_t (B, C, H, W), in the dtype of x_t."""
        times = torch.full((len(x_t),), t, device=x_t.device)
        eps, variance = self.model.eps_and_variance(x_t, times)
        self.evaluations.count(eps)
        alpha_bar = self.alpha_bar(t)
        x0 = (x_t - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5
        return Prediction(x0, eps, variance)
