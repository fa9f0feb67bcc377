"""Trains a diffusion prior s_theta: denoising score matching with an ADM UNet."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from davi.data.panel import image_grid
from davi.priors.sampling import ddim_sample
from davi.score import ScoreModel
from davi.system.runtime import draw_each, normal_each
from davi.training.inputs import time_draws
from davi.training.regression_trainer import RegressionTrainer

NUM_DDIM_STEPS = 50  # enough to judge a sample by eye


@dataclass(kw_only=True, eq=False)
class PriorTrainer(RegressionTrainer):
    """Minimises Eq. 4 in noise form, |eps - eps_theta|^2, or the same of v, by `ScoreModel`s.

    Attributes:
        noise_range: bounds of the noise of x_t, log-uniform between them; None: t is uniform.
        Further ones are those of `RegressionTrainer`.
    """

    model: ScoreModel
    averaged_model: ScoreModel
    noise_range: tuple[float, float] | None = None

    def loss(self, x0: Tensor, positions: Sequence[int], *key: int | str) -> Tensor:
        """See `RegressionTrainer.loss`."""
        x_t, t, wanted = self._noised(x0, positions, *key)
        return F.mse_loss(self.model.predict(x_t, t)[0], wanted)

    def _noised(
        self, x0: Tensor, positions: Sequence[int], *key: int | str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Noised images x_t, their times t and what the network is to say of them."""
        rngs, schedule = self.rngs(positions, *key), self.model.schedule
        t = draw_each(time_draws(schedule, len(schedule), self.noise_range), rngs)
        eps = normal_each(x0.shape[1:], rngs)
        return schedule.add_noise(x0, t, eps), t, self.model.wanted(x0, t, eps)

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], Tensor]:
        """Returns the loss on the validation images, and a picture: samples above those images."""
        positions = range(len(self.validation))
        x_t, t, wanted = self._noised(self.validation, positions, "validation")
        predicted = self.world.map_rows(lambda *row: self.averaged_model.predict(*row)[0], x_t, t)
        loss = F.mse_loss(predicted, wanted)
        z = normal_each(self.validation.shape[1:], self.rngs(positions, "sample"))
        samples = self.world.map_rows(
            partial(ddim_sample, self.averaged_model, num_steps=NUM_DDIM_STEPS), z
        )
        return {"validation_loss": loss.item()}, image_grid([samples, self.validation])
