"""Trained networks as files: safetensors whose header holds the configuration they belong to."""

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from davi.system.errors import InputError
from davi.system.files import atomic_path, make_folder
from davi.system.shipped import CHECKPOINTS, find, shipped_names
from davi.weights.hub import fetch, is_on_hub
from guided_diffusion.checkpoint import is_finite, read_pt
from guided_diffusion.errors import CheckpointError

GENERATOR, PRIOR, I2SB = "davi generator", "davi prior", "davi i2sb"
TEACHER = "davi conditional teacher"
FAKE_SCORE, DISCRIMINATOR = "davi fake score", "davi discriminator"
OF_METHOD = {None: PRIOR, "i2sb": I2SB, "teacher": TEACHER}
EMA_PREFIXES = {GENERATOR: "module.network.", **dict.fromkeys(OF_METHOD.values(), "module.")}
CHECKSUM = "sha256"  # key in the header of the files; older ones have none
DTYPES = {
    "int8": torch.int8,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}
# Ends the key of the steps of an int8 tensor, one for each output channel. What has one dimension,
# such as a bias, is float16 beside it.
STEP = ".int8_step"


def read_training_checkpoint(path: Path, mapped: bool = False) -> dict[str, Any]:
    """Returns the content of a file written during training, tensors on the CPU.

    Args:
        path: the file.
        mapped: see `read_pt`; for readers that need one of the networks only.

    Raises:
        CheckpointError: not such a file, or damaged.
    """
    content = read_pt(path, mapped)
    if not is_training_checkpoint(content):
        raise CheckpointError(
            f"{path}: not a checkpoint of davi train or davi train-prior (no iteration, "
            "config and ema in it)"
        )
    return content


def is_training_checkpoint(content: Any) -> bool:
    """Returns whether this was written by davi train or davi train-prior."""
    return (
        isinstance(content, dict)
        and {"iteration", "config", "ema"} <= content.keys()
        and isinstance(content["iteration"], int)
        and _is_plain(content["config"])
        and is_state_dict(content["ema"])
    )


def _is_plain(config: Any) -> bool:
    """Whether this is a mapping of nothing but JSON values."""
    try:
        return isinstance(config, dict) and bool(json.dumps(config))
    except (TypeError, ValueError, RecursionError):
        return False


def is_state_dict(value: Any) -> bool:
    """Returns whether this is a mapping of names to tensors."""
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items()
    )


def averaged_weights(checkpoint: Mapping[str, Any], kind: str) -> dict[str, Tensor]:
    """Returns the averaged network of a training checkpoint, under the keys of the ADM UNet."""
    return entries_below(checkpoint["ema"], EMA_PREFIXES[kind])


def entries_below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns the entries whose names begin with a prefix, without it."""
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def kind_of(checkpoint: Mapping[str, Any]) -> str:
    """Returns what a training checkpoint holds, such as `GENERATOR`."""
    if "generator" in checkpoint:
        return GENERATOR
    return OF_METHOD.get(checkpoint["config"].get("method"), PRIOR)


def new_weights_file(path: Path, overwrite: bool, suffix: str = ".safetensors") -> Path:
    """Returns the path of a file to be written, its folder created if needed.

    Raises:
        InputError: another suffix, or a file that is not to be overwritten.
    """
    if path.suffix != suffix:
        raise InputError(f"{path}: the name must end in {suffix}")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists; add --overwrite or choose another name")
    make_folder(path.parent)
    return path


def save_weights(
    path: Path,
    weights: Mapping[str, Tensor],
    *,
    kind: str,
    config: dict | None,
    iteration: int | None,
    dtype: str,
    origin: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes a network with what is known of it, whole or not at all.

    Args:
        path: a `.safetensors` file.
        weights: the network.
        kind: what it is, such as `GENERATOR`.
        config: the run it belongs to; None if it is not known.
        iteration: how long it was trained; None if it is not known.
        dtype: a key of `DTYPES`. With int8, an output channel of a tensor is stored in steps of
            1/127 of its largest weight.
        origin: further entries of the header, about the file the weights were taken from.

    Raises:
        InputError: a weight is too large for the dtype.
    """
    header = {"kind": kind, **origin}
    if config is not None:
        header["config"] = json.dumps(config)
    if iteration is not None:
        header["iteration"] = str(iteration)
    tensors: dict[str, Tensor] = {}
    for key, value in weights.items():
        tensors |= _stored(key, value, dtype) if value.is_floating_point() else {key: value}
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    for key, value in tensors.items():
        if value.is_floating_point() and not is_finite(value):
            raise InputError(f"{path}: {key} overflows in {dtype}; choose --dtype float32")
    header[CHECKSUM] = _checksum(tensors, header)
    with atomic_path(path) as temporary:
        # Not save_file, which lets nobody but the owner read the file, whatever the umask says.
        temporary.write_bytes(save(tensors, metadata=header))


def _stored(key: str, value: Tensor, dtype: str) -> dict[str, Tensor]:
    """The entries of a file that hold a tensor."""
    if dtype != "int8":
        return {key: value.to(DTYPES[dtype])}
    if value.ndim < 2:
        return {key: value.half()}
    step = value.abs().flatten(1).amax(dim=1).float().div(127).clamp(min=torch.finfo().tiny)
    of_channel = step.view(-1, *[1] * (value.ndim - 1))
    return {key: (value / of_channel).round().to(torch.int8), key + STEP: step}


def with_steps(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of a file, as floats where it has int8, see `save_weights`."""
    whole = {key: value for key, value in weights.items() if not key.endswith(STEP)}
    for key, value in whole.items():
        if key + STEP in weights:
            whole[key] = value * weights[key + STEP].view(-1, *[1] * (value.ndim - 1))
    return whole


def read_header(path: Path) -> tuple[str | None, dict | None, int | None]:
    """Returns kind, configuration and iteration of a safetensors file, None where absent.

    Raises:
        CheckpointError: damaged, or no safetensors file.
    """
    header = _read_entries(path)
    try:
        config = json.loads(header.get("config", "null"))
        if not isinstance(config, dict | None):
            raise ValueError("its config is no mapping")
        iteration = int(header["iteration"]) if "iteration" in header else None
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    return header.get("kind"), config, iteration


def require_checksum(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Refuses a safetensors file that is not what was written, if its header has a checksum.

    Args:
        path: the file.
        weights: its tensors.

    Raises:
        CheckpointError: damaged, or no safetensors file.
    """
    header = _read_entries(path)
    found = header.pop(CHECKSUM, None)
    if found is not None and found != _checksum(weights, header):
        raise CheckpointError(
            f"{path}: damaged: differs from what was written (SHA-256); get or export it again"
        )


def _read_entries(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as stream:
            return stream.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: damaged or not a safetensors file ({error})")


def _checksum(weights: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """The SHA-256 of all that a file says: of its header, and names, kinds and bytes of tensors."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for key, value in sorted(weights.items()):
        digest.update(json.dumps([key, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def weights_file(path: Path) -> Path:
    """Returns the file itself, the newest checkpoint of a run folder, a shipped or a fetched file.

    Args:
        path: of one of these; of a shipped file its name, such as "photos_denoising", will do; of
            one on the Hugging Face Hub "hf:user/name", see `hub.fetch`.

    Raises:
        InputError: no such file or folder, or the folder or repository holds no checkpoint.
    """
    if is_on_hub(path):
        file = fetch(str(path))
        if read_header(file)[0] is None:
            raise InputError(f"{path}: its {file.name} was not written by davi (export, push)")
        return file
    path = find(path, CHECKPOINTS)
    if not path.exists():
        nearest = difflib.get_close_matches(path.stem, shipped_names(CHECKPOINTS), n=1)
        hint = f"; did you mean {nearest[0]}, which davi ships?" if nearest else ""
        raise InputError(f"{path}: no such file or run folder{hint}")
    if path.is_file():
        return path
    files = sorted((path / "checkpoints").glob("iteration_*.pt"))
    if not files:
        raise InputError(f"{path}: holds no checkpoints/iteration_*.pt, so it is no run folder")
    return files[-1]
