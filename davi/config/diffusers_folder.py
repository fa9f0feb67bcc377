"""Folders that the library diffusers wrote: what they say of a prior."""

import json
from pathlib import Path
from typing import Any

from davi.schedule import NUM_STEPS
from davi.system.errors import InputError

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
SCHEDULES = {"linear": "linear", "scaled_linear": "quadratic", "squaredcos_cap_v2": "cosine"}
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# What a scheduler may say that changes the diffusion, and the value that leaves it as it is here.
_WITHOUT = {"trained_betas": None, "rescale_betas_zero_snr": False}


def is_diffusers_folder(folder: Path) -> bool:
    """Returns whether a folder holds a UNet of diffusers, alone or as a pipeline."""
    return any((folder / part / "config.json").is_file() for part in ("", "unet"))


def read_folder(folder: Path) -> dict[str, Any]:
    """Returns what a folder says, as the `network` section and the `schedule` of a run.

    Args:
        folder: of a pipeline with the parts unet and scheduler, or with the files of both.

    Raises:
        InputError: there is no such network or scheduler, or it is of another kind of diffusion.
    """
    model = _read(_part(folder, "unet") / "config.json")
    if model.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise InputError(f"{folder}: holds a {model['_class_name']}; a UNet2DModel is needed")
    scheduler = _read(_part(folder, "scheduler") / "scheduler_config.json")
    return {
        "network": {
            "name": "diffusers",
            "model": {key: value for key, value in model.items() if not key.startswith("_")},
            "prediction": _known(folder, scheduler, "prediction_type", "epsilon", PREDICTIONS),
        },
        "schedule": _schedule(folder, scheduler),
    }


def weights_path(folder: Path) -> Path:
    """Returns the file with the weights of a folder's UNet.

    Raises:
        InputError: there is none.
    """
    found = [path for name in WEIGHTS if (path := _part(folder, "unet") / name).is_file()]
    if not found:
        raise InputError(f"{_part(folder, 'unet')}: holds neither of {', '.join(WEIGHTS)}")
    return found[0]


def _part(folder: Path, name: str) -> Path:
    """The subfolder of a pipeline's part, or the folder itself if it has none."""
    return folder / name if (folder / name).is_dir() else folder


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; the folder of a diffusers pipeline with a UNet2DModel and its "
            "scheduler is needed"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: keys and values are needed, this is {values!r:.40}")
    return values


def _known(
    folder: Path, scheduler: dict[str, Any], key: str, default: str, names: dict[str, str]
) -> str:
    value = scheduler.get(key, default)
    if not isinstance(value, str) or value not in names:
        raise InputError(
            f"{folder}: its scheduler's {key} is {value!r:.40}; known: {', '.join(names)}"
        )
    return names[value]


def _schedule(folder: Path, scheduler: dict[str, Any]) -> str:
    """The scheduler's betas under our name; diffusers' own defaults are those of DDPM."""
    for key, value in {"num_train_timesteps": NUM_STEPS, **_WITHOUT}.items():
        if scheduler.get(key, value) != value:
            raise InputError(
                f"{folder}: its scheduler's {key} is {scheduler[key]!r:.40}; only {value} is known"
            )
    name = _known(folder, scheduler, "beta_schedule", "linear", SCHEDULES)
    ends = scheduler.get("beta_start", 1e-4), scheduler.get("beta_end", 0.02)
    return name if name == "cosine" or ends == (1e-4, 0.02) else f"{name}:{ends[0]}:{ends[1]}"
