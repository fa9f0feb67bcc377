"""What one network learns with: AdamW, its learning rate, and the loss scale of half precision."""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from davi.system.parallel import full_state, gradient_exchange, load_full_state
from davi.training.learning_rate import RateShape

SMALLEST_LOSS_SCALE = 1.0  # gradients that overflow at this one need no scale, but a lower rate


class NetworkOptimizer:
    """Takes gradient steps; one with a gradient that is not finite is left out.

    It is left out on the device itself (torch's GradScaler tells fused AdamW), so that nothing
    waits for it. With fp16 the scaler adapts its scale; otherwise the scale is 1 for ever.

    Args:
        network: distributed already.
        learning_rate, weight_decay, betas: of AdamW.
        rate_shape: of the learning rate over the run.
        precision: fp32, bf16 or fp16; what the network runs in.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        learning_rate: float,
        weight_decay: float,
        rate_shape: RateShape,
        precision: str,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.network = network
        self.learning_rate = learning_rate
        self.rate_shape = rate_shape
        self.scale_adapts = precision == "fp16"
        self.parameters = list(network.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True
        )
        device = self.parameters[0].device.type
        initial = {} if self.scale_adapts else {"init_scale": 1.0}
        self.scaler = torch.amp.GradScaler(device, **initial)

    def begin(self, iteration: int) -> None:
        """Forgets the gradients and sets the learning rate of an iteration."""
        rate = self.learning_rate * self.rate_shape.factor(iteration)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)

    def exchange(self, wanted: bool) -> contextlib.AbstractContextManager:
        """Returns the context of a micro-batch, see `gradient_exchange`."""
        return gradient_exchange(self.network, wanted)

    def loss_scale(self) -> Tensor:
        """Returns what `backward` multiplies losses with, a scalar."""
        return self.scaler.scale(self.parameters[0].new_ones((), dtype=torch.float32))

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss."""
        self.scaler.scale(loss).backward()

    def step(self) -> Tensor:
        """Takes the step; returns the norm of the gradient over all processes, a scalar.

        A norm that is not finite under a loss scale that can still fall is given as 0: the scaler
        deals with it.
        """
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters])
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if self.scale_adapts:
            norm = torch.where(
                norm.isfinite() | (self.loss_scale() < SMALLEST_LOSS_SCALE), norm, 0.0
            )
        self.scaler.step(self.optimizer)
        self.scaler.update(None if self.scale_adapts else 1.0)
        return norm

    def state_dict(self, keep: bool) -> dict[str, Any]:
        """Returns moments and loss scale, see `full_state`."""
        scaler = {"scaler": self.scaler.state_dict()} if self.scale_adapts else {}
        return full_state(self.optimizer, keep) | scaler

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        load_full_state(self.optimizer, state)
        if self.scale_adapts and "scaler" in state:  # not in one begun in another precision
            self.scaler.load_state_dict(state["scaler"])
