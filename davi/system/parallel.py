"""Networks over several processes, and their states independent of how many there are.

ddp    every process holds whole networks; gradients are averaged as they come.
fsdp   weights, gradients and optimiser states are sharded (FSDP2); each block gathers its weights
       when it is needed.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

from davi.system.world import World

Stateful = nn.Module | torch.optim.Optimizer


def replicated(network: nn.Module, world: World) -> nn.Module:
    """Returns the network on this process's device, its gradients averaged over all of them.

    A network without trainable parameters is only moved.
    """
    network = network.to(world.device, memory_format=layout(world.device))
    trainable = any(parameter.requires_grad for parameter in network.parameters())
    if not (world.distributed and trainable):
        return network
    # The processes' batch statistics (of a discriminator) are synchronised by themselves, or not.
    return DistributedDataParallel(network, gradient_as_bucket_view=True, broadcast_buffers=False)


def sharded(network: nn.Module, blocks: Iterable[nn.Module], world: World) -> nn.Module:
    """Returns the network with its parameters sharded over all processes.

    Args:
        network: on any device.
        blocks: parts of it whose weights are gathered together.
        world: of a process group.
    """
    network.to(world.device)
    # FSDP wants its weights contiguous; convolutions follow the layout of their input.
    network.register_forward_pre_hook(_with_layout)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    # The root, too, gives its weights back after a forward: one without gradients would leave them.
    return fully_shard(network, mesh=mesh, reshard_after_forward=True)


def layout(device: torch.device) -> torch.memory_format:
    """Returns how images lie in memory during training: as the device's kernels want them.

    On a CPU the backward of the group norm takes 40 times as long for channels that lie last,
    which made a training step of `photos_64` 1.6 times as long.
    """
    return torch.contiguous_format if device.type == "cpu" else torch.channels_last


def _with_layout(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    image, *others = inputs
    return image.contiguous(memory_format=layout(image.device)), *others


@contextlib.contextmanager
def gradient_exchange(network: nn.Module, wanted: bool) -> Iterator[None]:
    """Within the block, gradients are exchanged between processes only if `wanted`.

    Forward and backward of a micro-batch belong into one block; the last one exchanges the sum.
    """
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(wanted)
        yield
    elif isinstance(network, DistributedDataParallel) and not wanted:
        with network.no_sync():
            yield
    else:
        yield


def unwrapped(network: nn.Module) -> nn.Module:
    """Returns the network itself."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def full_state(part: Stateful, keep: bool) -> dict[str, Any]:
    """Returns the state of a network or optimiser, whole tensors on the CPU.

    All processes must ask; only those with `keep` get it, the others {}. The tensors share no
    memory with the part.
    """

    def whole(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.full_tensor() if isinstance(value, DTensor) else value
        return value.detach().to("cpu", copy=True) if keep else None

    state = tree_map(whole, part.state_dict())
    return state if keep else {}


def load_full_state(part: Stateful, state: dict[str, Any]) -> None:
    """Restores what `full_state` returned, whatever the number of processes was then."""
    if isinstance(part, torch.optim.Optimizer):
        parameters = [p for group in part.param_groups for p in group["params"]]
        moments = {
            index: {key: _like(value, parameters[index]) for key, value in moment.items()}
            for index, moment in state["state"].items()
        }
        # The options are this run's (fused or not, learning rate): only the moments are state.
        part.load_state_dict({**part.state_dict(), "state": moments})
    else:
        own = part.state_dict()
        part.load_state_dict(
            {key: _like(value, own[key]) if key in own else value for key, value in state.items()}
        )


def _like(value: Tensor, model: Tensor) -> Tensor:
    """A copy, sharded and laid out in memory as the model, if it is of the same shape.

    The layout matters: fused AdamW walks through weights and moments as they lie in memory.
    """
    if value.shape != model.shape:
        return value.clone()
    if isinstance(model, DTensor):
        device = model.device_mesh.device_type
        return distribute_tensor(value.to(device), model.device_mesh, model.placements)
    return torch.empty_like(model, dtype=value.dtype, requires_grad=False).copy_(value)
