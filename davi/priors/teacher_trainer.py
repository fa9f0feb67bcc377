"""Trains a conditional teacher: denoising score matching on pairs of image and measurement."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from davi.data.panel import image_grid
from davi.metrics.ensembles import measurement_residual
from davi.operators.measurement import ForwardModel, lift
from davi.priors.sampling import conditional_sample
from davi.score import RESIZE, PosteriorDenoiser
from davi.system.runtime import draw_each, normal_each
from davi.training.inputs import log_uniform_time
from davi.training.regression_trainer import RegressionTrainer

NUM_SAMPLING_STEPS = 50  # enough to judge samples


@torch.no_grad()
def begin_as_prior(last_layer: nn.Module, prediction: str, deviation: float) -> None:
    """Makes the last layer of a prior's network that of a teacher.

    Where nothing is measured, F is -v if the white prior has deviation 1: a prior that predicts v
    is a teacher there already. Otherwise the teacher begins as the white prior, F = 0.
    """
    for parameter in last_layer.parameters():
        parameter.neg_() if (prediction, deviation) == ("v", 1) else parameter.zero_()


@dataclass(kw_only=True, eq=False)
class TeacherTrainer(RegressionTrainer):
    """Minimises |F(x_t, t, y) - F of x0|^2: E[x0 | x_t, y] where every t counts alike.

    Source: Eq. 4 with y as a further input, in the units of Karras et al. 2022.

    Attributes:
        forward_model: operator and noise.
        noise_range: bounds of the noise of x_t, log-uniform between them.
        Further ones are those of `RegressionTrainer`; its models are `PosteriorDenoiser`.
    """

    model: PosteriorDenoiser
    averaged_model: PosteriorDenoiser
    forward_model: ForwardModel
    noise_range: tuple[float, float]

    def loss(self, x0: Tensor, positions: Sequence[int], *key: int | str) -> Tensor:
        """See `RegressionTrainer.loss`."""
        x_t, t, mean, _ = self._draw(x0, positions, *key)
        wanted = self.model.residual_of(x0, x_t, t, mean)
        return F.mse_loss(self.model.residual(x_t, t, mean), wanted)

    def _draw(
        self, x0: Tensor, positions: Sequence[int], *key: int | str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noised images x_t, their times t, m0, and measurements y."""
        y, _ = self.forward_model.measure(x0, self.rngs(positions, *key, "measurement"))
        rngs = self.rngs(positions, *key, "step")
        t = draw_each(partial(log_uniform_time, self.model.schedule, *self.noise_range), rngs)
        eps = normal_each(x0.shape[1:], rngs)
        mean = self.model.white_mean(lift(y, x0.shape[1:], RESIZE))
        return self.model.schedule.add_noise(x0, t, eps), t, mean, y

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], Tensor]:
        """Returns scores of the validation images, and a picture: m0, samples, truth.

        The scores are the loss, and how far the samples miss y: rms(y - A x) / sigma, which of
        true posterior samples is 1.
        """
        model, x0 = self.averaged_model, self.validation
        positions = range(len(x0))
        x_t, t, mean, y = self._draw(x0, positions, "validation")
        found = self.world.map_rows(model.residual, x_t, t, mean)
        rngs = self.rngs(positions, "sample")
        z = torch.stack([normal_each(x0.shape[1:], rngs) for _ in range(NUM_SAMPLING_STEPS)], 1)
        samples = self.world.map_rows(
            lambda mean, z: conditional_sample(model, mean, z.unbind(1)), mean, z
        )
        missed = measurement_residual(samples[None], y, self.forward_model.operator, model.sigma)
        scores = {
            "validation_loss": F.mse_loss(found, model.residual_of(x0, x_t, t, mean)).item(),
            "residual": missed.square().mean().sqrt().item(),
        }
        return scores, image_grid([mean, samples, x0])
