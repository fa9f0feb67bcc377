"""Reads ADM weights strictly and without running code from the file."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from guided_diffusion.presets import PRESETS, UNetConfig, create_unet
from guided_diffusion.unet import UNetModel

_MAX_LISTED = 4  # keys named in an error message


class CheckpointError(ValueError):
    """A weight file cannot be used; the message says what it is and what to do."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Returns the state dict in a `.safetensors` or PyTorch file, on the CPU.

    Raises:
        CheckpointError: missing or unreadable file, a pickle that holds more than tensors, or
            anything but a flat state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weight file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; the error below says it all
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not a plain PyTorch weight file (it is damaged, or a pickle that would run "
            "code, which is refused); get the original file again"
        ) from error
    except Exception as error:  # damaged bytes make the unpickler raise whatever they spell
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged or not a weight file ({reason})") from error
    if not isinstance(content, Mapping) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise CheckpointError(
            f"{path}: holds no flat state dict (key -> tensor), so it is no ADM weight file"
        )
    return dict(content)


def load_adm(path: str | Path, preset: str | UNetConfig) -> UNetModel:
    """Returns the network of an OpenAI-style ADM weight file, float32 on the CPU, in eval mode.

    Args:
        path: `.pt` state dict as published by OpenAI or DPS, or `.safetensors`.
        preset: architecture, by name (`PRESETS`) or as a `UNetConfig`.

    Raises:
        CheckpointError: the file cannot be read or holds another architecture.
    """
    config = PRESETS[preset] if isinstance(preset, str) else preset
    return unet_from_weights(read_weights(path), config, str(path))


def unet_from_weights(weights: Mapping[str, Tensor], config: UNetConfig, where: str) -> UNetModel:
    """Returns the network with exactly these weights, float32 on the CPU, in eval mode.

    Raises:
        CheckpointError: they belong to another architecture; `where` names their origin.
    """
    network = create_unet(config)
    expected = network.state_dict()
    if _shapes(weights) != _shapes(expected):
        raise CheckpointError(f"{where}: {_explain_mismatch(weights, expected)}")
    network.load_state_dict(weights)
    return network.eval()


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def _explain_mismatch(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    found, wanted = _shapes(weights), _shapes(expected)
    for name, config in PRESETS.items():
        with torch.device("meta"):
            known = _shapes(create_unet(config).state_dict())
        if found == known:
            return f"holds the architecture {name!r}, not the one asked for: use preset {name!r}"
    parts = []
    if missing := [key for key in wanted if key not in found]:
        parts.append(f"{len(missing)} keys are missing ({_listed(missing)})")
    if superfluous := [key for key in found if key not in wanted]:
        parts.append(f"{len(superfluous)} keys do not belong ({_listed(superfluous)})")
    if differing := [key for key in wanted if key in found and found[key] != wanted[key]]:
        key = differing[0]
        parts.append(
            f"{len(differing)} tensors have another shape ({key}: {found[key]} instead of "
            f"{wanted[key]})"
        )
    return (
        f"holds {len(found)} tensors, not the {len(wanted)} of the architecture asked for: "
        f"{', '.join(parts)}; get the file made for it, or describe this file's own architecture"
    )


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:_MAX_LISTED]) + (", ..." if len(keys) > _MAX_LISTED else "")
