"""Files with networks, and what each of them holds.

The layouts: the flat ADM state dict of OpenAI and DPS, the training files of the DAVI release, its
averaged generators, folders of the library diffusers, and this project's own. A file is recognised
by its keys and tensors; no code of it is run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from davi.config.diffusers_folder import read_folder, weights_path
from davi.networks.diffusers_unet import PREFIX
from davi.release.discriminator import PatchDiscriminator
from davi.system.errors import InputError
from davi.weights.checkpoint_manifest import require_as_written
from davi.weights.network_file import (
    DISCRIMINATOR,
    FAKE_SCORE,
    GENERATOR,
    I2SB,
    PRIOR,
    TEACHER,
    averaged_weights,
    entries_below,
    is_state_dict,
    is_training_checkpoint,
    kind_of,
    read_header,
    require_checksum,
    with_steps,
)
from guided_diffusion.checkpoint import read_pt, read_weights
from guided_diffusion.errors import CheckpointError

Weights = dict[str, Tensor]

# What a file of ours calls a part. Where a generator was averaged, `generator` is the average.
KINDS = {
    "generator": GENERATOR,
    "raw_generator": GENERATOR,
    "score": FAKE_SCORE,
    "discriminator": DISCRIMINATOR,
    "prior": PRIOR,
    "i2sb": I2SB,
    "teacher": TEACHER,
}
BARE_ROLES = ("generator", "raw_generator", "score", "prior")  # what an ADM network may be
# Networks in a training file of the release, all but the average: its key and our part.
_RELEASE_NETWORKS = {
    "implicit_func": "raw_generator",
    "student_func": "score",
    "criterion_2d": "discriminator",
}
# The same in one of ours: our part and its key.
_OWN_NETWORKS = {
    "raw_generator": "generator",
    "score": "fake_score",
    "discriminator": "discriminator",
}
_RELEASE_AVERAGE = "implicit_func_ema"
_ADM_KEYS = {"time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"}
_CLASSES = "label_emb.weight"  # of an ADM network that is told a class
_EMA_PREFIX, _RAW_PREFIX = "ema_model.", "online_model."
_DISCRIMINATOR_PREFIX = "discriminator_2d."


@dataclass(frozen=True)
class WeightFile:
    """A file with one or several networks.

    Attributes:
        path: where it is.
        layout: what it is, in words.
        parts: {one of `KINDS`: weights under plain keys}.
        role_known: false for a bare ADM network, which may be any part.
        config: the run it belongs to, in a file of ours.
        iteration: how long it was trained, if it says so.
    """

    path: Path
    layout: str
    parts: dict[str, Weights]
    role_known: bool = True
    config: dict[str, Any] | None = None
    iteration: int | None = None

    def part(self, name: str) -> Weights:
        """Returns the weights of a part.

        Raises:
            InputError: the file has none.
        """
        if name not in self.parts:
            raise InputError(
                f"{self.path}: is {self.layout} and holds no {name}; there is "
                f"{', '.join(self.parts)} (davi import --part)"
            )
        return self.parts[name]


def read_diffusers_folder(folder: Path) -> WeightFile:
    """Returns the prior in a folder that the library diffusers wrote.

    Raises:
        InputError: it holds no UNet2DModel with its scheduler, or one of another diffusion.
        CheckpointError: missing or damaged weights.
    """
    config, path = read_folder(folder), weights_path(folder)
    weights = {f"{PREFIX}{key}": value for key, value in read_weights(path).items()}
    return WeightFile(path, "a UNet of diffusers", {"prior": weights}, config=config)


def read_weight_file(path: Path) -> WeightFile:
    """Returns what a file holds; of a PyTorch file, tensors stay on disk until they are used.

    Raises:
        CheckpointError: missing or damaged file, a pickle that would run code, or no known layout.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = read_pt(path, mapped=True)
    require_as_written(path)
    if is_training_checkpoint(content):
        return _own_training_file(path, content)
    if isinstance(content, Mapping):
        if content.keys() & {_RELEASE_AVERAGE, *_RELEASE_NETWORKS}:
            return _release_training_file(path, content)
        if is_state_dict(content):
            return _state_dict(path, content)
    raise _unknown(path, content)


def require_patch_discriminator(weights: Weights, where: str) -> None:
    """Refuses what is not the release's discriminator; `where` names its origin.

    Raises:
        CheckpointError: its tensors have other names, shapes or kinds of number.
    """
    with torch.device("meta"):
        expected = PatchDiscriminator().state_dict()
    for key in expected | weights:
        found, wanted = (_kind(state.get(key)) for state in (weights, expected))
        if found != wanted:
            raise CheckpointError(
                f"{where}: not the discriminator of the DAVI release ({key}: {found} instead of "
                f"{wanted})"
            )


def _kind(value: Tensor | None) -> str:
    """Shape of a tensor in words, and its kind of number if those are no floats."""
    if value is None:
        return "nothing"
    kind = "" if value.is_floating_point() else f" of {value.dtype}"
    return f"{tuple(value.shape)}{kind}"


def _read_safetensors(path: Path) -> WeightFile:
    weights = read_weights(path)
    require_checksum(path, weights)
    weights = with_steps(weights)
    kind, config, iteration = read_header(path)
    if kind is None:
        return _state_dict(path, weights)
    if kind not in KINDS.values():
        raise CheckpointError(f"{path}: holds a {kind!r}, which this version does not know")
    parts = {_part_of(kind): weights}
    return WeightFile(path, f"a {kind}", parts, config=config, iteration=iteration)


def _part_of(kind: str) -> str:
    """What the averaged network of a kind is called; of a generator, `generator`."""
    return next(part for part, known in KINDS.items() if known == kind)


def _own_training_file(path: Path, content: Mapping[str, Any]) -> WeightFile:
    kind = kind_of(content)
    parts = {_part_of(kind): averaged_weights(content, kind)}
    for part, name in _OWN_NETWORKS.items():
        if name in content:
            if not is_state_dict(content[name]):
                raise _unknown(path, content)
            parts[part] = dict(content[name])
    return WeightFile(
        path,
        f"a training checkpoint of a {kind}",
        parts,
        config=content["config"],
        iteration=content["iteration"],
    )


def _release_training_file(path: Path, content: Mapping[str, Any]) -> WeightFile:
    states = {key: content[key] for key in (_RELEASE_AVERAGE, *_RELEASE_NETWORKS) if key in content}
    if not all(map(is_state_dict, states.values())):
        raise _unknown(path, content)
    parts = _averaged_parts(states.pop(_RELEASE_AVERAGE, {}))
    for key, state in states.items():
        parts[_RELEASE_NETWORKS[key]] = _without(_without(state, "module."), _DISCRIMINATOR_PREFIX)
    if not parts:
        raise _unknown(path, content)
    iteration = _count(content.get("step"))
    return WeightFile(path, "a training file of the DAVI release", parts, iteration=iteration)


def _state_dict(path: Path, state: Weights) -> WeightFile:
    state = _without(state, "module.")
    if parts := _averaged_parts(state):
        iteration = _count(state.get("step"))
        return WeightFile(path, "an averaged network (EMA)", parts, iteration=iteration)
    if any(key.startswith(_DISCRIMINATOR_PREFIX) for key in state):
        parts = {"discriminator": _without(state, _DISCRIMINATOR_PREFIX)}
        return WeightFile(path, "a discriminator", parts)
    if _CLASSES in state:
        raise CheckpointError(
            f"{path}: its network is class-conditional ({_CLASSES}); one without classes is needed"
        )
    if state.keys() >= _ADM_KEYS:
        # All weights of ADM lie in its modules; tables beside them, as deepinv's DiffUNet has for
        # its noise levels, are none.
        state = {key: value for key, value in state.items() if "." in key}
        parts = dict.fromkeys(BARE_ROLES, state)
        return WeightFile(path, "a bare ADM network", parts, role_known=False)
    raise _unknown(path, state)


def _averaged_parts(state: Mapping[str, Tensor]) -> dict[str, Weights]:
    """The generators in the state of an EMA wrapper: its average, if one was begun, and its source.

    Before the first update the average holds what the network was created with.
    """
    parts = {
        "generator": entries_below(state, _EMA_PREFIX),
        "raw_generator": entries_below(state, _RAW_PREFIX),
    }
    if "initted" in state and not state["initted"].any():
        del parts["generator"]
    return {part: _without(weights, "module.") for part, weights in parts.items() if weights}


def _count(value: Any) -> int | None:
    """A number of iterations, which may be a tensor of shape () or (1,)."""
    single = isinstance(value, int) or (isinstance(value, Tensor) and value.numel() == 1)
    return int(value) if single else None


def _without(state: Mapping[str, Tensor], prefix: str) -> Weights:
    return {key.removeprefix(prefix): value for key, value in state.items()}


def _unknown(path: Path, content: Any) -> CheckpointError:
    keys = ", ".join(map(str, list(content)[:4])) if isinstance(content, Mapping) else "none"
    return CheckpointError(
        f"{path}: holds no network known here; a flat ADM state dict, an EMA of one, or a training "
        f"checkpoint of the DAVI release or of davi train is needed (its first keys: {keys})"
    )
