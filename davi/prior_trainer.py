"""Trains a diffusion prior s_theta: denoising score matching with a noise-predicting ADM UNet."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from davi.ema import Ema
from davi.network_optimizer import NetworkOptimizer
from davi.panel import image_grid
from davi.parallel import full_state, load_full_state, unwrapped
from davi.prior_sampling import ddim_sample
from davi.runtime import draw_each, keyed_rng, normal_each
from davi.score import ScoreModel
from davi.world import World

NUM_DDIM_STEPS = 50  # enough to judge a sample by eye


class PriorTrainer:
    """Learner of `training_loop` for the prior.

    Args:
        model: the network to train as a score model.
        averaged_model: another one around the network of `ema`.
        ema: average of the weights, which are the result.
        optimizer: of the network.
        seed: run seed; draws are keyed by (seed, iteration, position in the global batch).
        batch_size: of all processes together.
        num_micro_batches: pieces in which this process goes through its share.
        validation: (B, C, H, W) images in [-1, 1] never trained on.
        world: the processes; the networks are distributed over them already.
    """

    def __init__(
        self,
        *,
        model: ScoreModel,
        averaged_model: ScoreModel,
        ema: Ema,
        optimizer: NetworkOptimizer,
        seed: int,
        batch_size: int,
        num_micro_batches: int,
        validation: Tensor,
        world: World,
    ) -> None:
        self.model = model
        self.averaged_model = averaged_model
        self.ema = ema
        self.optimizer = optimizer
        self.seed = seed
        self.batch_size = batch_size
        self.shares = world.share(batch_size, num_micro_batches)
        self.world = world
        self.device = world.device
        self.validation = validation.to(self.device)

    def train_step(self, x0: Tensor, iteration: int) -> dict[str, Tensor]:
        """Minimises Eq. 4 in noise form, |eps - eps_theta|^2, on clean images (B, C, H, W).

        Returns:
            Detached scalars: this process's part of the loss and of the gradient's norm, whose sum
            over the processes belongs to the global batch.
        """
        self.optimizer.begin(iteration)
        pieces = x0.to(self.device, non_blocking=True).split([len(share) for share in self.shares])
        losses = []
        for number, (piece, share) in enumerate(zip(pieces, self.shares, strict=True), start=1):
            weight = len(piece) / self.batch_size
            with self.optimizer.exchange(wanted=number == len(pieces)):
                x_t, t, eps = self._noised(piece, share, "train", iteration)
                loss = F.mse_loss(self.model.eps(x_t, t), eps)
                losses.append(weight * loss.detach())
                self.optimizer.backward(self.world.size * weight * loss)
        gradient = self.optimizer.step()
        self.ema.update(unwrapped(self.model.network))
        return {"loss": sum(losses), "gradient": gradient / self.world.size}

    def _noised(
        self, x0: Tensor, positions: Sequence[int], *key: int | str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Noised images x_t, their times t and their noise eps."""
        rngs = [keyed_rng(self.device, self.seed, *key, position) for position in positions]
        num_steps = len(self.model.schedule)
        t = draw_each(
            lambda rng: torch.randint(num_steps, (), generator=rng, device=rng.device), rngs
        )
        eps = normal_each(x0.shape[1:], rngs)
        return self.model.schedule.add_noise(x0, t, eps), t, eps

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], Tensor]:
        """Returns the loss on the validation images, and a picture: samples above those images."""
        positions = range(len(self.validation))
        x_t, t, eps = self._noised(self.validation, positions, "validation")
        loss = F.mse_loss(self.world.map_rows(self.averaged_model.eps, x_t, t), eps)
        rngs = [keyed_rng(self.device, self.seed, "sample", position) for position in positions]
        z = normal_each(self.validation.shape[1:], rngs)
        samples = self.world.map_rows(
            partial(ddim_sample, self.averaged_model, num_steps=NUM_DDIM_STEPS), z
        )
        return {"validation_loss": loss.item()}, image_grid([samples, self.validation])

    def quality(self, scores: dict[str, float]) -> float:
        """Returns what the best checkpoint has the most of."""
        return -scores["validation_loss"]

    def state_dict(self, keep: bool) -> dict[str, Any]:
        """Returns network, average and optimiser state, see `full_state`."""
        return {
            "network": full_state(unwrapped(self.model.network), keep),
            "ema": full_state(self.ema, keep),
            "optimizer": self.optimizer.state_dict(keep),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        load_full_state(unwrapped(self.model.network), state["network"])
        load_full_state(self.ema, state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
