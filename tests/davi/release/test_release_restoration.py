"""Restorations by a generator of the authors, against their procedure written out once more.

The procedure: the measurement on the image grid plus noise, the network at index 999, tanh.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import davi
from davi.config.schema import RunConfig
from davi.config.yaml_file import load_config
from davi.system.runtime import keyed_rng
from guided_diffusion.presets import FFHQ_256, UNetConfig, create_unet
from tests.authors import adm_weights, ema_state, write_run

H = 0.1
# The authors resize by torchvision, with its default antialiasing.
RESIZE = {"size": (16, 16), "mode": "bilinear", "antialias": True, "align_corners": False}
TASKS: dict[str, tuple[str, tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "gaussian": ("{name: gaussian_blur, kernel_size: 9, sigma: 1}", (3, 16, 16), lambda y: y),
    "sr_averagepooling": (
        "{name: super_resolution, factor: 4}",
        (3, 4, 4),
        lambda y: F.interpolate(y, **RESIZE),
    ),
    "inpainting": (
        "{name: inpainting, mask: centred_box, box_size: 8}",
        (3, 16, 16),
        lambda y: y,
    ),
    "deno": ("{name: denoising}", (3, 16, 16), lambda y: y),
    "colorization": ("{name: colorization}", (1, 16, 16), lambda y: y.repeat(1, 3, 1, 1)),
}


def quadratic_betas() -> np.ndarray:
    return np.linspace(1e-4**0.5, 0.02**0.5, 1000, dtype=np.float64) ** 2


def perturbation() -> float:
    """1 - alpha_bar at index 999."""
    return 1 - np.cumprod(1 - quadratic_betas())[999]


def whole_deviation() -> float:
    """The deviation of all symmetric betas together: the rising half, mirrored."""
    half = quadratic_betas()[:500]
    return np.sqrt(2 * half.sum())


def by_the_release(
    unet: UNetConfig, weights: dict[str, Tensor], y_net: Tensor, z: Tensor
) -> Tensor:
    network = create_unet(unet)
    network.load_state_dict(weights)
    y_999 = y_net + perturbation() * H * z
    with torch.no_grad():
        eps = network.eval()(y_999, torch.full((len(y_999),), 999))[:, :3]
    return torch.tanh(y_999 - whole_deviation() * eps)


def noise(shape: tuple[int, ...], seed: int, names: list[str]) -> Tensor:
    """What the restorer draws for these names."""
    draws = [
        torch.randn(shape, generator=keyed_rng("cpu", seed, "restore", name, 0)) for name in names
    ]
    return torch.stack(draws)


def test_the_constants_are_the_recorded_ones() -> None:
    assert perturbation() == pytest.approx(0.999267, abs=1e-6)
    assert whole_deviation() == pytest.approx(1.481319, abs=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_a_generator_of_the_authors_restores_as_in_their_code(task: str, tmp_path: Path) -> None:
    operator, shape, to_image = TASKS[task]
    config = write_run(tmp_path / "run.yaml", operator)
    unet = load_config(config, RunConfig).network.unet()
    weights = adm_weights(unet, seed=1)
    torch.save(ema_state(weights, adm_weights(unet, seed=2)), tmp_path / f"{task}_ema.pt")
    y = 0.5 * torch.randn(2, *shape, generator=torch.Generator().manual_seed(3))

    restorer = davi.load(tmp_path / f"{task}_ema.pt", "cpu", config=config)
    restored = restorer.restore(y, seed=5, names=["a", "b"])[0]

    z = noise((3, 16, 16), 5, ["a", "b"])
    expected = by_the_release(unet, weights, to_image(y), z)
    torch.testing.assert_close(restored, expected, rtol=0, atol=1e-4)
    assert 0.1 < expected.std() < 0.95  # neither empty nor all saturated


@pytest.mark.slow
def test_so_does_one_of_full_width_known_by_its_name(tmp_path: Path) -> None:
    weights, path = adm_weights(FFHQ_256, seed=1, scale=0.005), tmp_path / "deno_ema.pt"
    torch.save({"step": 48000, "implicit_func_ema": ema_state(weights, weights, 48000)}, path)
    y = 0.5 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    restorer = davi.load(path, "cpu", size=(64, 64))
    assert restorer.task == "denoising"
    restored = restorer.restore(y, names=["a"])[0]
    expected = by_the_release(FFHQ_256, weights, y, noise((3, 64, 64), 0, ["a"]))
    torch.testing.assert_close(restored, expected, rtol=0, atol=1e-4)
    assert 0.1 < expected.std() < 0.95
