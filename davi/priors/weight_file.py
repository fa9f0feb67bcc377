"""A prior's weight file: of this project, of OpenAI or DPS, or imported."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from davi.config.network import (
    AnyNetworkConfig,
    CustomNetworkConfig,
    NetworkConfig,
    parse_network,
)
from davi.config.other_runs import TeacherRunConfig
from davi.config.python_file import NOT_RUN
from davi.config.schema import RunConfig
from davi.config.yaml_file import parse_config
from davi.schedule import Schedule
from davi.system.errors import InputError
from davi.weights.layouts import Weights, read_weight_file
from guided_diffusion.checkpoint import preset_of, unet_from_weights
from guided_diffusion.presets import PRESETS, Architecture


@dataclass(frozen=True)
class PriorFile:
    """A trained prior.

    Attributes:
        path: its file.
        weights: its (averaged) network.
        unet: its architecture.
        schedule: name of the diffusion it was trained on.
        prediction: what the network says, see `ScoreModel`.
    """

    path: Path
    weights: Weights
    unet: Architecture
    schedule: str
    prediction: str

    def network(self) -> nn.Module:
        """Returns the network, float32 on the CPU.

        Raises:
            CheckpointError: the weights are of another architecture.
        """
        return unet_from_weights(self.weights, self.unet, str(self.path))


def read_prior_file(path: Path, network: AnyNetworkConfig | None = None) -> PriorFile:
    """Returns the prior in a file.

    Args:
        path: the file.
        network: its architecture and prediction; None to take those of its config, or the preset
            that its tensors fit. Weights without a config count as trained to predict the noise, on
            the linear schedule, as ADM's were.

    Raises:
        InputError, CheckpointError: missing or damaged file, no prior, one of another prediction,
            or nothing tells its architecture.
    """
    file = read_weight_file(path)
    if "prior" not in file.parts:
        raise InputError(f"{path}: holds {file.layout}; a prior is needed")
    weights, config = file.part("prior"), file.config or {}
    own = parse_network(config.get("network") or {}, str(path))
    if network is None:
        if isinstance(own, CustomNetworkConfig):
            raise InputError(f"{path}: {NOT_RUN.format('network', own.file)}, in a run's config")
        network = own if config.get("network") else NetworkConfig(preset=_preset(path, weights))
    elif network.prediction != own.prediction:
        raise InputError(
            f"{path}: predicts {own.prediction}; network.prediction is {network.prediction}, set "
            "it to what the prior predicts"
        )
    schedule = config.get("schedule", "linear")
    try:
        Schedule.named(str(schedule))
    except ValueError as error:
        raise InputError(f"{path}: schedule: {error}") from error
    return PriorFile(path, weights, network.unet(), schedule, network.prediction)


def _preset(path: Path, weights: Weights) -> str:
    preset = preset_of(weights)
    if preset is None:
        raise InputError(
            f"{path}: does not tell its architecture, which is none of {', '.join(PRESETS)}; "
            "import it with davi import --part prior --config CONFIG"
        )
    return preset


def read_teacher_file(path: Path, config: RunConfig) -> nn.Module:
    """Returns the network of a conditional teacher, float32 on the CPU.

    Args:
        path: its file.
        config: the run that it is to be the target of.

    Raises:
        InputError, CheckpointError: missing or damaged file, no teacher, or one of another problem.
    """
    file = read_weight_file(path)
    if "teacher" not in file.parts:
        raise InputError(
            f"{path}: holds {file.layout}; prior.sees_measurement needs a conditional teacher (one "
            "is trained by davi train with a config that says method: teacher)"
        )
    trained = parse_config(file.config or {}, TeacherRunConfig, str(path))
    pairs = {
        "operator": (trained.operator, config.operator),
        "noise": (trained.noise, config.noise),
        "schedule": (trained.schedule, config.schedule),
        "loss.image_deviation": (trained.teacher.image_deviation, config.loss.image_deviation),
    }
    for key, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise InputError(f"{key}: the teacher {path} was trained with {theirs}, here is {ours}")
    return unet_from_weights(file.part("teacher"), config.seeing_unet(), str(path))
