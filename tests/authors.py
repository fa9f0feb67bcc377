"""Weight files in the layouts of the authors, with random weights."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from guided_diffusion.presets import UNetConfig, create_unet
from tests.conftest import REPOSITORY

Weights = dict[str, Tensor]
DISCRIMINATOR_WIDTHS = (3, 64, 128, 256, 512, 1)


def adm_weights(unet: UNetConfig, seed: int, scale: float = 0.05) -> Weights:
    """An ADM network as OpenAI's package saves it; noise of `scale` keeps all of it from 0."""
    torch.manual_seed(seed)
    state = create_unet(unet).state_dict()
    return {key: value + scale * torch.randn_like(value) for key, value in state.items()}


def in_ddp(weights: Mapping[str, Tensor]) -> Weights:
    """The names that a network has inside DistributedDataParallel."""
    return {f"module.{key}": value for key, value in weights.items()}


def ema_state(
    average: Mapping[str, Tensor],
    raw: Mapping[str, Tensor],
    step: int = 42000,
    shape: tuple[int, ...] = (),
    initted: bool = True,
) -> Weights:
    """The state of ema_pytorch's wrapper; `shape` is that of its counters, (1,) in old versions."""
    return {
        "initted": torch.full(shape, initted),
        "step": torch.full(shape, step),
        **{f"online_model.{key}": value for key, value in raw.items()},
        **{f"ema_model.{key}": value for key, value in average.items()},
    }


def discriminator_state(seed: int = 9) -> Weights:
    """The patch discriminator of the release: five 4x4 convolutions, three of them normalised."""
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for stage in range(5):
        before, after = DISCRIMINATOR_WIDTHS[stage : stage + 2]
        name = f"discriminator_2d.model{stage}"
        state[f"{name}.0.weight"] = 0.02 * torch.randn(after, before, 4, 4, generator=rng)
        state[f"{name}.0.bias"] = torch.randn(after, generator=rng)
        if 0 < stage < 4:
            for entry in ("weight", "bias", "running_mean", "running_var"):
                state[f"{name}.1.{entry}"] = torch.rand(after, generator=rng)
            state[f"{name}.1.num_batches_tracked"] = torch.tensor(7)
    return state


def training_file(
    average: Mapping[str, Tensor],
    raw: Mapping[str, Tensor],
    score: Mapping[str, Tensor],
    step: int = 42000,
) -> dict[str, object]:
    """What the release saves while it trains."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter], lr=1e-4)
    parameter.sum().backward()
    optimizer.step()
    return {
        "step": step,
        "implicit_func": dict(raw),
        "implicit_func_ema": ema_state(average, raw, step),
        "student_func": dict(score),
        "opt_d": optimizer.state_dict(),
        "opt_s": optimizer.state_dict(),
        "opt_disc": optimizer.state_dict(),
        "criterion_2d": discriminator_state(),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3},
    }


def write_run(path: Path, operator: str) -> Path:
    """Writes the config of a tiny run on the given operator, and returns its path."""
    lines = (
        f"extends: {REPOSITORY / 'configs/tiny.yaml'}",
        "network: {out_channels: 6}",  # noise and learned variance, as in the authors' networks
        f"operator: {operator}",
    )
    path.write_text("\n".join(lines) + "\n")
    return path
