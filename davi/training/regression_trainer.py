"""What trainings of a single network have in common: one loss that is a mean over images."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from davi.system.parallel import unwrapped
from davi.training.learner import Learner
from davi.training.network_optimizer import NetworkOptimizer


@dataclass(kw_only=True, eq=False)
class RegressionTrainer(Learner):
    """Learner of `run_training` for one network, which learns to predict something.

    Attributes:
        model: around the network to train, which is its `network`.
        averaged_model: another one around the network of `ema`.
        optimizer: of the network.
        Further ones are those of `Learner`.
    """

    model: nn.Module
    averaged_model: nn.Module
    optimizer: NetworkOptimizer

    @abstractmethod
    def loss(self, x0: Tensor, positions: Sequence[int], *key: int | str) -> Tensor:
        """Returns the mean loss of clean images (B, C, H, W), a function of `rngs` of the key."""

    def train_step(self, x0: Tensor, iteration: int) -> dict[str, Tensor]:
        """Takes a step, see `Learner.train_step`; returns loss and gradient norm."""
        self.optimizer.begin(iteration)
        losses = []
        for piece, share in zip(self.micro_batches(x0), self.shares, strict=True):
            weight = len(piece) / self.batch_size
            with self.optimizer.exchange(wanted=share is self.shares[-1]):
                loss = self.loss(piece, share, "train", iteration)
                losses.append(weight * loss.detach())
                self.optimizer.backward(self.world.size * weight * loss)
        gradient = self.optimizer.step()
        self.ema.update(unwrapped(self.model.network))
        return {"loss": sum(losses), "gradient": gradient / self.world.size}

    def quality(self, scores: dict[str, float]) -> float:
        """Returns what the best checkpoint has the most of."""
        return -scores["validation_loss"]

    def parts(self) -> dict[str, nn.Module | NetworkOptimizer]:
        """See `Learner.parts`."""
        network = unwrapped(self.model.network)
        return {"network": network, "ema": self.ema, "optimizer": self.optimizer}
