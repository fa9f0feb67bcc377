"""A trained I2SB network and the problem that it was trained for."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from davi.build import build_operator, image_shape
from davi.config.schema import CustomOperatorConfig, I2SBRunConfig
from davi.config.yaml_file import parse_config
from davi.operators.inpainting import Inpainting, RandomInpainting
from davi.operators.linear import LinearOperator
from davi.solvers.i2sb_bridge import I2SBBridge, I2SBModel
from davi.system.errors import InputError
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
        operator_type: class of that problem's operators.
        image_shape: (C, H, W) of restored images.
        measurement_shape: shape of one measurement.
    """

    source: str
    model: I2SBModel
    task: str
    operator_type: type[LinearOperator]
    image_shape: tuple[int, int, int]
    measurement_shape: tuple[int, int, int]

    def require(self, y: Tensor, operator: LinearOperator) -> None:
        """Refuses measurements (B, ...) and operators of another problem.

        Raises:
            InputError: says what the network was trained for.
        """
        fits = (
            isinstance(operator, self.operator_type)
            and operator.image_shape == self.image_shape
            and tuple(y.shape[1:]) == self.measurement_shape
        )
        if not fits:
            raise InputError(
                f"{self.source}: restores {self.image_shape} from {self.measurement_shape} "
                f"({self.task}); here are {operator.image_shape} from {tuple(y.shape[1:])} "
                f"({type(operator).__name__}); take a network trained for that"
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
            f"{path}: holds {file.layout}, a {I2SB} is needed (one is trained by scripts/train.py "
            "with a config that says method: i2sb)"
        )
    config = parse_config(file.config, I2SBRunConfig, str(path))
    if isinstance(config.operator, CustomOperatorConfig):  # code is not run because a file names it
        raise InputError(f"{path}: networks of I2SB for operators of one's own cannot be used")
    network = unet_from_weights(file.part("i2sb"), config.network.unet(), str(path))
    network.to(device, memory_format=torch.channels_last).requires_grad_(False)
    bridge = I2SBBridge(**config.bridge.model_dump()).to(device)
    shape = image_shape(config)
    operator = build_operator(config.operator, shape)
    return TrainedI2SB(
        source=source,
        model=I2SBModel(network, bridge, precision),
        task=config.task,
        operator_type=Inpainting if isinstance(operator, RandomInpainting) else type(operator),
        image_shape=shape,
        measurement_shape=operator.measurement_shape,
    )
