"""What is shipped in checkpoints/: complete, small, made by the shipped configs, and of use."""

import functools
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from scipy.ndimage import gaussian_filter
from torch import Tensor

import davi
from davi.build import build_forward_model
from davi.config.schema import PriorRunConfig, RunConfig
from davi.config.yaml_file import load_config, parse_config
from davi.data.batches import open_images, validation_batch
from davi.data.images import from_uint8, to_uint8
from davi.metrics.scores import psnr, ssim
from davi.operators.measurement import lift
from davi.operators.svd import SVDOperator
from davi.priors.sampling import ddim_sample
from davi.priors.weight_file import read_prior_file
from davi.schedule import Schedule
from davi.score import ScoreModel
from davi.system.runtime import keyed_rng
from davi.weights.network_file import GENERATOR, PRIOR, read_header
from tests.conftest import REPOSITORY
from tests.davi.config.test_config import model_of

TASKS = ("gaussian_blur", "super_resolution", "inpainting", "denoising", "colorization")
CHECKPOINTS = REPOSITORY / "checkpoints"
SHIPPED = sorted(CHECKPOINTS.glob("*.safetensors"))
CPU = torch.device("cpu")
NUM_IMAGES = 128
each_task = pytest.mark.parametrize("task", TASKS)


def shipped(task: str) -> Path:
    return CHECKPOINTS / f"photos_{task}.safetensors"


def test_the_folder_is_complete_and_small() -> None:
    generators = {f"{task}{recipe}" for task in TASKS for recipe in ("", "_posterior")}
    names = {f"photos_{name}" for name in (*generators, "prior", "prior_v")}
    assert {path.stem for path in SHIPPED} == names | {"kernel_prior"}
    assert all(path.stat().st_size < 10e6 for path in SHIPPED)
    assert sum(path.stat().st_size for path in SHIPPED) < 60e6


def test_files_are_what_the_shipped_configs_make() -> None:
    for path in SHIPPED:
        model = model_of(path)
        kind, values, _ = read_header(path)
        assert kind == {RunConfig: GENERATOR, PriorRunConfig: PRIOR}[model]
        config = load_config(REPOSITORY / f"configs/{path.stem}.yaml", model)
        assert parse_config(values, model, "header") == config
        with safe_open(path, "pt") as content:
            assert content.metadata()["iteration"] == str(config.train.num_iterations)


@pytest.mark.slow
def test_the_prior_denoises_held_out_photographs() -> None:
    schedule = Schedule.named("linear")
    model = ScoreModel(read_prior_file(shipped("prior")).network(), schedule)
    x0 = validation_batch(open_images("photos:held_out", 64), 32)
    rng = torch.Generator().manual_seed(0)
    for time in (50, 150, 400):
        t, eps = torch.full((32,), time), torch.randn(x0.shape, generator=rng)
        x_t = schedule.add_noise(x0, t, eps)
        with torch.no_grad():
            error = (schedule.x0_from_eps(x_t, t, model.eps(x_t, t)) - x0).square().mean()
        abar = schedule.alpha_bar[time].float()
        # The best linear guess that knows mean and variance of the pixels only.
        wiener = x0.mean() + (x0.var() * abar.sqrt() / (abar * x0.var() + 1 - abar)) * (
            x_t - abar.sqrt() * x0.mean()
        )
        assert error < 0.5 * (wiener - x0).square().mean()


@pytest.mark.slow
def test_a_prior_that_predicts_v_takes_pure_noise_for_the_mean_image() -> None:
    schedule = Schedule.named("linear")
    network = read_prior_file(shipped("prior_v")).network()
    model = ScoreModel(network.eval(), schedule, prediction="v")
    x0 = validation_batch(open_images("photos:held_out", 64), 32)
    t, eps = (
        torch.full((32,), 999),
        torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)),
    )
    x_t = schedule.add_noise(x0, t, eps)
    with torch.no_grad():
        error = (schedule.x0_from_eps(x_t, t, model.eps(x_t, t)) - x0).square().mean()
    spread = (x0 - x0.mean(dim=0)).square().mean()
    print(error, spread)
    assert error < 1.3 * spread


@pytest.mark.slow
def test_samples_of_the_prior_vary_and_are_smooth() -> None:
    schedule = Schedule.named("linear")
    model = ScoreModel(read_prior_file(shipped("prior")).network(), schedule)
    z = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    samples = ddim_sample(model, z, 25)
    neighbours = (samples.diff(dim=-1)).square().mean() / samples.var()
    print(neighbours, samples.var(dim=(2, 3)))
    assert 0.005 < neighbours < 0.5  # 0 for one flat colour, 2 for white noise
    assert samples.mean(dim=(1, 2, 3)).std() > 0.05


@dataclass(frozen=True)
class Restorations:
    """Held-out crops, what was measured of them and what DAVI makes of it."""

    x0: Tensor
    y: Tensor
    operator: SVDOperator
    lifted: Tensor
    pseudo_inverse: Tensor
    davi: Tensor


@functools.cache
def restorations(task: str) -> Restorations:
    restorer = davi.load(shipped(task), "cpu")
    x0 = validation_batch(open_images("photos:held_out", 64), NUM_IMAGES)
    rngs = [keyed_rng("cpu", "test", task, i) for i in range(NUM_IMAGES)]
    forward_model = build_forward_model(restorer.config, restorer.image_shape, CPU)
    y, operator = forward_model.measure(x0, rngs)
    return Restorations(
        x0=x0,
        y=y,
        operator=operator,
        lifted=lift(y, restorer.image_shape),
        pseudo_inverse=operator.A_dagger(y),
        davi=restorer.restore(y)[0],
    )


def score(image: Tensor, truth: Tensor) -> tuple[float, float]:
    """Mean PSNR and SSIM of 8-bit pictures."""
    picture = from_uint8(to_uint8(image))
    return psnr(picture, truth).mean().item(), ssim(picture, truth).mean().item()


@pytest.mark.slow
@each_task
def test_generators_beat_what_needs_no_network(task: str) -> None:
    images = restorations(task)
    restored = score(images.davi, images.x0)
    print(task, restored)
    for rival in (images.lifted, images.pseudo_inverse):
        dull = score(rival, images.x0)
        assert restored[0] > dull[0] + 0.5  # dB
        assert restored[1] > dull[1]


@pytest.mark.slow
@each_task
def test_bfloat16_costs_no_quality(task: str) -> None:
    images, few = restorations(task), slice(32)  # differences, of which few images suffice
    restored = davi.load(shipped(task), "cpu", "bf16").restore(images.y[few])[0]
    assert not torch.equal(restored, images.davi[few])
    exact, rounded = (psnr(x, images.x0[few]).mean() for x in (images.davi[few], restored))
    print(task, exact, rounded, psnr(restored, images.davi[few]).mean())
    assert abs(exact - rounded) <= 0.05  # dB


@pytest.mark.slow
def test_the_hole_is_filled_better_than_with_the_mean_of_the_known() -> None:
    images = restorations("inpainting")
    ones = torch.ones_like(images.x0)
    known = images.operator.A_dagger(images.operator.A(ones))
    mean = (known * images.lifted).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True)
    error, dull = (((guess - images.x0) * (1 - known)).square() for guess in (images.davi, mean))
    assert error.mean() < 0.8 * dull.mean()


@pytest.mark.slow
def test_the_colours_are_better_than_none() -> None:
    images = restorations("colorization")
    chroma, guess = (x - x.mean(dim=1, keepdim=True) for x in (images.x0, images.davi))
    assert (guess - chroma).square().mean() < 0.7 * chroma.square().mean()


@pytest.mark.slow
def test_denoising_beats_every_gaussian_filter() -> None:
    images = restorations("denoising")
    filtered = [
        torch.from_numpy(gaussian_filter(images.lifted.numpy(), (0, 0, sigma, sigma)))
        for sigma in (0.4, 0.6, 0.8, 1.0, 1.3, 1.6)
    ]
    restored, best = score(images.davi, images.x0), [score(x, images.x0) for x in filtered]
    print(restored, best)
    assert restored[0] > max(dull[0] for dull in best)
    assert restored[1] > max(dull[1] for dull in best)
