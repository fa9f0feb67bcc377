"""The state of a trainer: of its networks, their averages and their optimisers, by name."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from davi.system.parallel import full_state, load_full_state
from davi.training.network_optimizer import NetworkOptimizer

Parts = Mapping[str, nn.Module | NetworkOptimizer]


def state_of(parts: Parts, keep: bool) -> dict[str, Any]:
    """Returns {name: state}, whole tensors on the CPU; only to processes that `keep` it."""

    def state(part: nn.Module | NetworkOptimizer) -> dict[str, Any]:
        is_optimizer = isinstance(part, NetworkOptimizer)
        return part.state_dict(keep) if is_optimizer else full_state(part, keep)

    return {name: state(part) for name, part in parts.items()}


def load_state(parts: Parts, state: Mapping[str, Any]) -> None:
    """Restores what `state_of` returned."""
    for name, part in parts.items():
        if isinstance(part, NetworkOptimizer):
            part.load_state_dict(state[name])
        else:
            load_full_state(part, state[name])
