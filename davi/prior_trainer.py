"""Trains a diffusion prior s_theta: denoising score matching with a noise-predicting ADM UNet."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from davi.ddim import ddim_sample
from davi.ema import Ema
from davi.learning_rate import RateShape
from davi.panel import image_grid
from davi.runtime import draw_each, keyed_rng, normal_each
from davi.schedule import Schedule
from davi.score import ScoreModel

NUM_DDIM_STEPS = 50  # enough to judge a sample by eye


class PriorTrainer:
    """Learner of `training_loop` for the prior.

    Args:
        network: ADM UNet on its device.
        schedule: the diffusion to learn.
        seed: run seed; draws are keyed by (seed, iteration, position in the batch).
        learning_rate, weight_decay: of AdamW.
        rate_shape: of the learning rate over the run.
        ema_decay: of the averaged weights, which are the result.
        precision: what the network runs in.
        validation: (B, C, H, W) images in [-1, 1] never trained on.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        *,
        seed: int,
        learning_rate: float,
        weight_decay: float,
        rate_shape: RateShape,
        ema_decay: float,
        precision: str,
        validation: Tensor,
    ) -> None:
        self.model = ScoreModel(network, schedule, precision)
        self.ema = Ema(network, ema_decay)
        self.averaged_model = ScoreModel(self.ema.module, schedule, precision)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=learning_rate, weight_decay=weight_decay
        )
        self.learning_rate = learning_rate
        self.rate_shape = rate_shape
        self.seed = seed
        self.device = next(network.parameters()).device
        self.validation = validation.to(self.device)

    def train_step(self, x0: Tensor, iteration: int) -> dict[str, Tensor]:
        """Minimises Eq. 4 in noise form, |eps - eps_theta|^2, on clean images (B, C, H, W)."""
        self.rate_shape.apply(self.optimizer, self.learning_rate, iteration)
        x0 = x0.to(self.device, non_blocking=True)
        loss = self._loss(self.model, x0, ("train", iteration))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.ema.update(self.model.network)
        return {"loss": loss.detach()}

    def _loss(self, model: ScoreModel, x0: Tensor, key: tuple) -> Tensor:
        rngs = [keyed_rng(self.device, self.seed, *key, i) for i in range(len(x0))]
        num_steps = len(model.schedule)
        t = draw_each(
            lambda rng: torch.randint(num_steps, (), generator=rng, device=rng.device), rngs
        )
        eps = normal_each(x0.shape[1:], rngs)
        return F.mse_loss(model.eps(model.schedule.add_noise(x0, t, eps), t), eps)

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], Tensor]:
        """Returns the loss on the validation images, and a picture: samples above those images."""
        loss = self._loss(self.averaged_model, self.validation, ("validation",))
        rngs = [keyed_rng(self.device, self.seed, "sample", i) for i in range(len(self.validation))]
        z = normal_each(self.validation.shape[1:], rngs)
        samples = ddim_sample(self.averaged_model, z, NUM_DDIM_STEPS)
        return {"validation_loss": loss.item()}, image_grid([samples, self.validation])

    def state_dict(self) -> dict[str, Any]:
        """Returns network, average and optimiser state."""
        return {
            "network": self.model.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self.model.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
