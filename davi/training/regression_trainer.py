"""What trainings of a single network have in common: one loss that is a mean over images."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from davi.system.parallel import unwrapped
from davi.system.runtime import keyed_rng
from davi.system.world import World
from davi.training.ema import Ema
from davi.training.network_optimizer import NetworkOptimizer
from davi.training.state import load_state, state_of


class RegressionTrainer(ABC):
    """Learner of `training_loop` for one network, which learns to predict something.

    Args:
        model: around the network to train, which is its `network`.
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
        model: nn.Module,
        averaged_model: nn.Module,
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

    @abstractmethod
    def loss(self, x0: Tensor, positions: Sequence[int], *key: int | str) -> Tensor:
        """Returns the mean loss of clean images (B, C, H, W), a function of `rngs` of the key."""

    @abstractmethod
    def validate(self) -> tuple[dict[str, float], Tensor]:
        """Returns scores, `validation_loss` among them, and a picture."""

    def train_step(self, x0: Tensor, iteration: int) -> dict[str, Tensor]:
        """Takes a step on this process's clean images (B, C, H, W).

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
                loss = self.loss(piece, share, "train", iteration)
                losses.append(weight * loss.detach())
                self.optimizer.backward(self.world.size * weight * loss)
        gradient = self.optimizer.step()
        self.ema.update(unwrapped(self.model.network))
        return {"loss": sum(losses), "gradient": gradient / self.world.size}

    def rngs(self, positions: Sequence[int], *key: int | str) -> list[torch.Generator]:
        """Returns one generator per position in the global batch, for what the key names."""
        return [keyed_rng(self.device, self.seed, *key, position) for position in positions]

    def quality(self, scores: dict[str, float]) -> float:
        """Returns what the best checkpoint has the most of."""
        return -scores["validation_loss"]

    def state_dict(self, keep: bool) -> dict[str, Any]:
        """Returns network, average and optimiser state, see `state_of`."""
        return state_of(self._parts(), keep)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        load_state(self._parts(), state)

    def _parts(self) -> dict[str, nn.Module | NetworkOptimizer]:
        network = unwrapped(self.model.network)
        return {"network": network, "ema": self.ema, "optimizer": self.optimizer}
