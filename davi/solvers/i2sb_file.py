"""A trained I2SB network and the problem that it was trained for."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from davi.build import build_operator, image_shape
from davi.config.network import CustomNetworkConfig
from davi.config.other_runs import I2SBRunConfig
from davi.config.problem import (
    CustomOperatorConfig,
)
from davi.config.yaml_file import parse_config
from davi.operators.linear import LinearOperator
from davi.operators.mask_text import is_mask_text
from davi.solvers.i2sb_bridge import I2SBBridge, I2SBModel
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng
from davi.weights.layouts import read_weight_file
from davi.weights.network_file import I2SB, weights_file
from guided_diffusion.checkpoint import unet_from_weights


@dataclass(frozen=True)
class TrainedI2SB:
    """An I2SB network, ready to restore.

    Attributes:
        source: what it was read from, for messages.
        model: around the averaged network, in evaluation mode, without gradients.
        task: name of the inverse problem.
        operator: of that problem; of a family, any member.
    """

    source: str
    model: I2SBModel
    task: str
    operator: LinearOperator

    def require(self, y: Tensor, operator: LinearOperator) -> None:
        """Refuses measurements (B, ...) and operators of another problem.

        Raises:
            InputError: says what the network was trained for.
        """
        trained = self.operator.image_shape, self.operator.measurement_shape
        found = operator.image_shape, tuple(y.shape[1:])
        if not isinstance(operator, type(self.operator)) or found != trained:
            raise InputError(
                f"{self.source}: restores {trained[0]} from {trained[1]} ({self.task}); here are "
                f"{found[0]} from {found[1]} ({type(operator).__name__}); take a network trained "
                "for that"
            )


@cache
def load_i2sb(source: str, device: str, precision: str) -> TrainedI2SB:
    """Returns the network in a run folder, training checkpoint or `.safetensors`, read once.

    Args:
        source: path of one of these.
        device: where to run.
        precision: fp32, bf16 or fp16; what the network runs in.

    Raises:
        InputError, CheckpointError: missing or damaged file, or no I2SB network.
    """
    path = weights_file(Path(source))
    file = read_weight_file(path)
    if "i2sb" not in file.parts or file.config is None:
        raise InputError(
            f"{path}: holds {file.layout}, a {I2SB} is needed (one is trained by davi train "
            "with a config that says method: i2sb)"
        )
    config = parse_config(file.config, I2SBRunConfig, str(path))
    # Code is not run because a file names it.
    if isinstance(config.operator, CustomOperatorConfig):
        raise InputError(f"{path}: networks of I2SB for operators of one's own cannot be used")
    if isinstance(config.network, CustomNetworkConfig):
        raise InputError(f"{path}: networks of one's own cannot be used as I2SB")
    mask = getattr(config.operator, "path", None)
    if mask is not None and not is_mask_text(mask):  # nor is a file opened
        raise InputError(
            f"{path}: its mask lies in {mask} and not in the file; train on with davi train, which "
            "writes it into the next checkpoint"
        )
    network = unet_from_weights(file.part("i2sb"), config.network.unet(), str(path))
    network.to(device, memory_format=torch.channels_last).requires_grad_(False)
    bridge = I2SBBridge(**config.bridge.model_dump()).to(device)
    operator = build_operator(config.operator, image_shape(config))
    return TrainedI2SB(
        source=source,
        model=I2SBModel(network, bridge, precision),
        task=config.task,
        operator=operator.sample([keyed_rng("cpu", 0)]),
    )
