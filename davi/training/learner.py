"""What every training has: its share of the batch, its random draws and its state."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from davi.system.parallel import full_state, load_full_state
from davi.system.runtime import keyed_rng
from davi.system.world import World
from davi.training.ema import Ema
from davi.training.network_optimizer import NetworkOptimizer


@dataclass(kw_only=True, eq=False)
class Learner(ABC):
    """What the loop needs to know of a method. All processes of a job call all of it together.

    Attributes:
        ema: average of the network that is the result.
        seed: run seed; draws are keyed by (seed, iteration, position in the global batch).
        batch_size: of all processes together.
        num_micro_batches: pieces in which this process goes through its share.
        validation: (B, C, H, W) images in [-1, 1] never trained on.
        world: the processes; the networks are distributed over them already.
    """

    ema: Ema
    seed: int
    batch_size: int
    num_micro_batches: int
    validation: Tensor
    world: World

    def __post_init__(self) -> None:
        self.shares = self.world.share(self.batch_size, self.num_micro_batches)
        self.device = self.world.device
        self.validation = self.validation.to(self.device)

    @abstractmethod
    def train_step(self, x0: Tensor, iteration: int) -> dict[str, Tensor]:
        """Updates the networks on this process's clean images (B, C, H, W).

        Returns:
            Detached scalars whose sums over the processes are the values of the global batch.
        """

    @abstractmethod
    def validate(self) -> tuple[dict[str, float], Tensor]:
        """Returns scores and a (3, H, W) picture in [-1, 1] for the fixed validation batch."""

    @abstractmethod
    def quality(self, scores: dict[str, float]) -> float:
        """Returns a number of the scores that is the higher the better."""

    @abstractmethod
    def parts(self) -> Mapping[str, nn.Module | NetworkOptimizer]:
        """Returns by name what the next step depends on: networks, average and optimisers."""

    def micro_batches(self, x0: Tensor) -> Sequence[Tensor]:
        """Returns this process's images on its device, in pieces, one for each of `shares`."""
        return x0.to(self.device, non_blocking=True).split([len(share) for share in self.shares])

    def rngs(self, positions: Sequence[int], *key: int | str) -> list[torch.Generator]:
        """Returns one generator per position in the global batch, for what the key names."""
        return [keyed_rng(self.device, self.seed, *key, position) for position in positions]

    def state_dict(self, keep: bool) -> dict[str, Any]:
        """Returns {name: state of a part}, whole tensors on the CPU; {} each without `keep`."""
        return {
            name: part.state_dict(keep)
            if isinstance(part, NetworkOptimizer)
            else full_state(part, keep)
            for name, part in self.parts().items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        for name, part in self.parts().items():
            if isinstance(part, NetworkOptimizer):
                part.load_state_dict(state[name])
            else:
                load_full_state(part, state[name])
