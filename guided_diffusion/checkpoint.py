"""Reads ADM weights strictly and without running code from the file."""

import contextlib
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from guided_diffusion.errors import CheckpointError
from guided_diffusion.presets import PRESETS, Architecture, UNetConfig
from guided_diffusion.unet import UNetModel

Shapes = dict[str, tuple[int, ...]]
_MAX_LISTED = 4  # keys named in an error message
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_pt(path: Path, mapped: bool = False) -> Any:
    """Returns the content of a PyTorch file: tensors on the CPU, and plain containers.

    Args:
        path: the file.
        mapped: leave the tensors in the file until they are used, which saves reading those that
            are not.

    Raises:
        CheckpointError: missing or unreadable file, or a pickle that would run code.
    """
    with _errors_of(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols; the error says it all
        is_zip = zipfile.is_zipfile(path)  # those of old PyTorch versions are not
        if is_zip:
            _require_unpacked(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_zip)


def require_intact(path: Path) -> None:
    """Refuses a PyTorch file of which a piece differs from its checksum, if it has checksums.

    Raises:
        CheckpointError: damaged.
    """
    with _errors_of(path):
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(
                f"{path}: damaged: {damaged} in it differs from its checksum (CRC-32); get the "
                "original file again"
            )


def _require_unpacked(path: Path) -> None:
    """Refuses a zip whose members say that they are larger than it is, before one is read."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > path.stat().st_size:
        raise CheckpointError(
            f"{path}: is to be unpacked to {unpacked} bytes, from {path.stat().st_size}; PyTorch "
            "packs nothing: get the original file again"
        )


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Within the block, which reads the file, whatever goes wrong is a CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weight file (looked for {path.resolve()})")
    try:
        yield
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not a plain PyTorch weight file (it is damaged, or a pickle that would run "
            "code, which is refused); get the original file again"
        ) from error
    except Exception as error:  # damaged bytes make the unpickler raise whatever they spell
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged or not a weight file ({reason})") from error


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Returns the state dict in a `.safetensors` or PyTorch file, on the CPU.

    Raises:
        CheckpointError: missing or unreadable file, a pickle that holds more than tensors, or
            anything but a flat state dict.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        with _errors_of(path):
            content = load_file(path)
    else:
        content = read_pt(path, mapped=True)
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise CheckpointError(
            f"{path}: holds no flat state dict (name -> tensor), so it is no ADM weight file"
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


def unet_from_weights(weights: Mapping[str, Tensor], config: Architecture, where: str) -> nn.Module:
    """Returns the network with exactly these weights, float32 on the CPU, in eval mode.

    Raises:
        CheckpointError: they belong to another architecture, or are no finite numbers; `where`
            names their origin.
    """
    require_architecture(weights, config, where)
    require_finite(weights, where)
    network = config.empty()
    own = {key: value.to(torch.float32, copy=True) for key, value in weights.items()}
    network.load_state_dict(own, assign=True)
    return network.eval()


def without_variance(weights: Mapping[str, Tensor], config: Architecture) -> dict[str, Tensor]:
    """Returns weights of which the last layer gives the channels of `config` only, the first ones.

    A learned variance is what comes after the prediction.
    """
    last = (f"{config.last_layer}.weight", f"{config.last_layer}.bias")
    count = config.out_channels
    return {key: value[:count] if key in last else value for key, value in weights.items()}


def with_input_channels(weights: Mapping[str, Tensor], config: Architecture) -> dict[str, Tensor]:
    """Returns weights whose first layer takes the channels of `config` and ignores further ones.

    A network that names no first layer takes no others.
    """
    if not config.first_layer:
        return dict(weights)
    first = f"{config.first_layer}.weight"
    further = config.in_channels - weights[first].shape[1]
    return {**weights, first: F.pad(weights[first], (0, 0, 0, 0, 0, further))}


def require_architecture(weights: Mapping[str, Tensor], config: Architecture, where: str) -> None:
    """Refuses weights whose names, shapes or kind of number are not those of the network.

    Raises:
        CheckpointError: they belong to another architecture; `where` names their origin.
    """
    found, wanted = _shapes(weights), _shapes_of(config)
    if found != wanted:
        raise CheckpointError(f"{where}: {_explain_mismatch(found, wanted, preset_of(weights))}")
    for key, value in weights.items():
        if value.dtype not in _FLOATS or value.layout != torch.strided:
            raise CheckpointError(
                f"{where}: {key} holds {value.dtype}, {value.layout}; the weights of a network are "
                "dense float16, bfloat16, float32 or float64"
            )


def require_finite(weights: Mapping[str, Tensor], where: str) -> None:
    """Refuses weights that hold NaN or infinity; `where` names their origin.

    Raises:
        CheckpointError: a tensor does; it is named.
    """
    for key, value in weights.items():
        if not is_finite(value):
            raise CheckpointError(
                f"{where}: {key} holds NaN or infinity; its training diverged, or it is damaged"
            )


def is_finite(value: Tensor) -> bool:
    """Returns whether a tensor holds neither NaN nor infinity."""
    # The extremes are NaN if anything is; found about a hundred times as fast as by isfinite.
    return not value.numel() or bool(torch.stack(value.aminmax()).isfinite().all())


def preset_of(weights: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the preset whose network has exactly these keys and shapes, if any."""
    found = _shapes(weights)
    return next((name for name in PRESETS if _shapes_of(PRESETS[name]) == found), None)


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items()}


def _shapes_of(config: Architecture) -> Shapes:
    return _shapes(config.empty().state_dict())


def _explain_mismatch(found: Shapes, wanted: Shapes, preset: str | None) -> str:
    if preset:
        return f"holds the architecture {preset!r}, not the one asked for: use preset {preset!r}"
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
