"""A trained generator from Python: `davi.load(path).restore(y)`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import davi
from davi.build import build_generator
from davi.metrics.uncertainty import reach
from davi.operators.measurement import lift
from davi.priors.weight_file import read_prior_file
from davi.sampler import posterior_sample
from davi.schedule import Schedule
from davi.score import ScoreModel
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng, normal_each, select_device
from davi.weights.generator_file import read_generator_file
from guided_diffusion.errors import CheckpointError
from tests.conftest import REPOSITORY
from tests.tiny import default_dtype, write_tiny_generator, write_tiny_prior

INPAINTING = "operator={name: inpainting, mask: centred_box, box_size: 8}"


@pytest.fixture(scope="module")
def weights(tiny_prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_generator(tmp_path_factory.mktemp("w") / "g.safetensors", tiny_prior)


@pytest.fixture(scope="module")
def restorer(weights: Path) -> davi.Restorer:
    return davi.load(weights, "cpu")


def measurements(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_restores_images_of_the_trained_size_in_range(restorer: davi.Restorer) -> None:
    samples = restorer.restore(measurements(), num_samples=2)
    assert samples.shape == (2, 3, 3, 16, 16)
    assert samples.abs().max() <= 1
    assert restorer.task == "super_resolution"
    assert restorer.measurement_shape == (3, 4, 4)


def test_a_sample_is_algorithm_2(restorer: davi.Restorer) -> None:
    y = measurements(1)
    z = torch.randn(3, 16, 16, generator=keyed_rng("cpu", 5, "restore", "name", 0))
    y_a = lift(y, (3, 16, 16)) + restorer.bridge.perturb_scale[999].float() * z
    expected = restorer.generator(y_a, torch.tensor([999])).detach().clamp(-1, 1)
    assert torch.equal(restorer.restore(y, seed=5, names=["name"])[0], expected)
    sample = posterior_sample(restorer.generator, restorer.bridge, lift(y, (3, 16, 16)), z[None])
    assert torch.equal(sample.clamp(-1, 1), expected)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (INPAINTING, "generator.sees_measurement=true"),
        ("recipe=posterior", "noise.sigma=0.05"),
    ],
    ids=["paper", "seeing", "posterior"],
)
def test_a_restorer_samples_as_the_generator_that_was_trained(
    tiny_prior: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    """Its network is folded at the time that this generator asks for."""
    path = write_tiny_generator(tmp_path / "g.safetensors", tiny_prior, *overrides)
    restorer, file = davi.load(path, "cpu"), read_generator_file(path, None, ())
    network, operator, bridge = file.network(), restorer.operator, restorer.bridge
    trained = build_generator(network, file.config, bridge, operator, "fp32")
    y_image, z = torch.rand(2, 3, 16, 16) - 0.5, torch.randn(2, 3, 16, 16)
    found, expected = (
        posterior_sample(each, bridge, y_image, z) for each in (restorer.generator, trained)
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert network.time_embed is not None
    assert restorer.generator.network.time_embed is None


def test_a_generator_that_sees_the_measurement_begins_without_its_help(
    tiny_prior: Path, tmp_path: Path
) -> None:
    """Its file says so; the further weights are 0 before training."""
    sees = "generator.sees_measurement=true"
    blind = write_tiny_generator(tmp_path / "blind.safetensors", tiny_prior, INPAINTING)
    seeing = write_tiny_generator(tmp_path / "seeing.safetensors", tiny_prior, INPAINTING, sees)
    y = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    restorer = davi.load(seeing, "cpu")
    first_layer = restorer.generator.network.input_blocks[0][0].weight
    assert first_layer.shape[1] == 3 + 3 + 1
    expected = davi.load(blind, "cpu").restore(y)
    torch.testing.assert_close(restorer.restore(y), expected)
    with torch.no_grad():
        first_layer[:, 3:6] += 0.1
    assert (restorer.restore(y) - expected).abs().max() > 0.01


def test_a_generator_of_the_posterior_recipe_begins_as_a_denoiser(
    tiny_prior: Path, tmp_path: Path
) -> None:
    settings = (
        "recipe=posterior",
        "operator={name: denoising}",
        "noise.sigma=0.4",
        "bridge.h=0.3",
    )
    path = write_tiny_generator(tmp_path / "generator.safetensors", tiny_prior, *settings)
    y = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    schedule = Schedule.named("linear")
    prior = ScoreModel(read_prior_file(tiny_prior).network(), schedule)
    rngs = [keyed_rng("cpu", 0, "restore", name, 0) for name in ("0", "1")]
    u = y + 0.3 * normal_each((3, 16, 16), rngs)
    t = schedule.index_of_noise(torch.tensor(0.5, dtype=torch.float64)).expand(2)  # 3, 4, 5
    with torch.no_grad():
        x_t = schedule.alpha_bar_t(t, u).sqrt() * u
        expected = schedule.x0_from_eps(x_t, t, prior.eps(x_t, t))
    found = davi.load(path, "cpu").restore(y)[0]
    torch.testing.assert_close(found, expected.clamp(-1, 1), rtol=0, atol=0.01)


def test_a_result_does_not_depend_on_its_company(restorer: davi.Restorer) -> None:
    y, names = measurements(3), ["a", "b", "c"]
    together = restorer.restore(y, 2, seed=1, names=names)
    turned = restorer.restore(y.flip(0), 2, seed=1, names=names[::-1])
    alone = restorer.restore(y[1:2], 2, seed=1, names=["b"])
    assert torch.equal(together.flip(1), turned)
    assert torch.equal(together[:, 1:2], alone)


def test_samples_differ_by_seed_name_and_number(restorer: davi.Restorer) -> None:
    y = measurements(1)
    first = restorer.restore(y, 2, seed=0, names=["a"])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], restorer.restore(y, seed=1, names=["a"])[0])
    assert not torch.equal(first[0], restorer.restore(y, seed=0, names=["b"])[0])
    assert torch.equal(first[:1], restorer.restore(y, 1, seed=0, names=["a"]))


def test_a_seed_and_names_of_numpy_mean_the_same(restorer: davi.Restorer) -> None:
    y = measurements(2)
    expected = restorer.restore(y, 2, seed=4, names=["a", "b"])
    assert torch.equal(restorer.restore(y, 2, np.int64(4), np.array(["a", "b"])), expected)
    assert torch.equal(restorer.restore(y, np.int32(2), torch.tensor(4), ("a", "b")), expected)


def test_another_default_dtype_changes_no_sample(weights: Path) -> None:
    y = measurements(2)
    expected = davi.load(weights, "cpu").restore(y)
    with default_dtype(torch.float64):
        found = davi.load(weights, "cpu").restore(y)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_other_sizes_are_restored_when_asked_for(weights: Path) -> None:
    restorer = davi.load(weights, "cpu", size=(24, 32))
    assert restorer.restore(torch.zeros(1, 3, 6, 8)).shape == (1, 1, 3, 24, 32)
    with pytest.raises(InputError, match="24x33: both sides must be multiples of"):
        davi.load(weights, "cpu", size=(24, 33))


def whole_pictures(height: int = 7, width: int = 14) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_picture_is_the_blend_of_its_pieces_under_one_noise(restorer: davi.Restorer) -> None:
    """By hand: pieces of 4 on 4 x 7 pixels begin at 0 and 3, where one gives way to the other."""
    y = whole_pictures(4, 7)[:1]
    z = torch.randn(3, 16, 28, generator=keyed_rng("cpu", 0, "restore", "name", 0))
    left, right = (
        posterior_sample(
            restorer.generator,
            restorer.bridge,
            lift(y[..., start : start + 4], (3, 16, 16)),
            z[None, ..., 4 * start : 4 * start + 16],
        ).clamp(-1, 1)
        for start in (0, 3)
    )
    ramp = (torch.arange(4) + 0.5) / 4
    middle = (1 - ramp) * left[..., 12:] + ramp * right[..., :4]
    expected = torch.cat([left[..., :12], middle, right[..., 4:]], dim=-1)
    found = restorer.restore(y, names=["name"])[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_picture_does_not_depend_on_the_batch(restorer: davi.Restorer) -> None:
    y, names = whole_pictures(), ["a", "b"]
    expected = restorer.restore(y, 2, names=names)
    assert expected.shape == (2, 2, 3, 28, 56)
    for batch_size in (1, 5, 100):
        assert torch.equal(restorer.restore(y, 2, names=names, batch_size=batch_size), expected)
    assert torch.equal(restorer.restore(y[1:], 2, names=["b"]), expected[:, 1:])
    with pytest.raises(InputError, match="batch_size=0: a whole number of at least 1"):
        restorer.restore(y, batch_size=0)


def test_a_small_picture_is_part_of_its_mirrored_continuation(restorer: davi.Restorer) -> None:
    """Rows 0 1 2 go on with 1, columns 0 1 with 0 1."""
    y = whole_pictures(3, 2)
    continued = torch.nn.functional.pad(y, (0, 1, 0, 1), mode="reflect")
    continued = torch.cat([continued, continued[..., 1:2]], dim=-1)
    assert torch.equal(restorer.restore(y), restorer.restore(continued)[..., :12, :8])


def test_a_damage_of_one_place_is_restored_at_the_trained_size_only(
    tiny_prior: Path, tmp_path: Path
) -> None:
    box = davi.load(write_tiny_generator(tmp_path / "box.safetensors", tiny_prior, INPAINTING))
    with pytest.raises(InputError, match=r"3x16x20 .* 3x16x16 .* for a damage that is the sa"):
        box.restore(torch.zeros(1, 3, 16, 20))
    pixels = "operator={name: inpainting, mask: random_pixels}"
    anywhere = davi.load(write_tiny_generator(tmp_path / "p.safetensors", tiny_prior, pixels))
    assert anywhere.restore(torch.zeros(1, 3, 16, 20)).shape == (1, 1, 3, 16, 20)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_close(weights: Path, precision: str) -> None:
    y = measurements()
    exact = davi.load(weights, "cpu").restore(y)
    error = (davi.load(weights, "cpu", precision).restore(y) - exact).abs()
    assert 0 < error.max() < 0.1
    assert error.mean() < 0.01


def test_what_lies_in_the_hole_of_an_image_file_does_not_matter(
    tiny_prior: Path, tmp_path: Path
) -> None:
    restorer = davi.load(
        write_tiny_generator(tmp_path / "g.safetensors", tiny_prior, INPAINTING), "cpu"
    )
    y = torch.zeros(1, 3, 16, 16)
    black = y.clone()
    black[..., 4:12, 4:12] = -1
    assert torch.equal(restorer.restore(y), restorer.restore(black))


def test_noise_in_the_hole_is_used_and_paint_refused(tiny_prior: Path, tmp_path: Path) -> None:
    settings = (INPAINTING, "operator.noise_in_hole=true")
    generator = write_tiny_generator(tmp_path / "g.safetensors", tiny_prior, *settings)
    restorer = davi.load(generator, "cpu")
    y = torch.zeros(1, 3, 16, 16)
    noisy, black = y.clone(), y.clone()
    noisy[..., 4:12, 4:12] = 0.05
    black[..., 4:12, 4:12] = -1
    assert not torch.equal(restorer.restore(y), restorer.restore(noisy))
    restorer.restore(y + torch.randn(y.shape, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(InputError, match="noise around 0 in the hole, whose mean is 1 here"):
        restorer.restore(black)


def test_a_result_that_is_not_finite_is_refused(weights: Path) -> None:
    restorer = davi.load(weights, "cpu")
    with torch.no_grad():
        restorer.generator.network.out[2].bias.fill_(torch.nan)
    with pytest.raises(InputError, match="its training diverged"):
        restorer.restore(measurements())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_does_not_depend_on_the_company_either(
    weights: Path, precision: str
) -> None:
    restorer, y = davi.load(weights, "cpu", precision), measurements(3)
    together = restorer.restore(y, names=["a", "b", "c"])
    assert torch.equal(together[:, 1:2], restorer.restore(y[1:2], names=["b"]))


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_network_gives_the_same_up_to_rounding(tmp_path: Path) -> None:
    """With one block of each kind, since the compiler takes seconds for each."""
    shallow = [f"network.{x}" for x in ("channel_mult=[1]", "num_res_blocks=1")]
    shallow.append("network.attention_resolutions=[1]")
    prior = write_tiny_prior(tmp_path / "prior.safetensors", *shallow)
    weights = write_tiny_generator(tmp_path / "generator.safetensors", prior, *shallow)
    y = measurements(3)
    exact, restorer = davi.load(weights, "cpu").restore(y), davi.load(weights, "cpu", compile=True)
    together = restorer.restore(y)
    torch.testing.assert_close(together, exact, rtol=0, atol=2e-5)
    assert torch.equal(restorer.restore(y[:1]), together[:, :1])


@pytest.mark.slow
def test_a_missing_compiler_is_said_in_one_line(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "absent-compiler")
    code = f"""
import davi, torch
restorer = davi.load({str(weights)!r}, "cpu", compile=True)
try:
    restorer.restore(torch.zeros(1, 3, 4, 4))
except davi.system.errors.InputError as error:
    print(error)
"""
    job = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True)
    message = job.stdout.decode()
    assert message.startswith("the network cannot be compiled here (")
    assert "absent-compiler" in message
    assert len(message.splitlines()) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_network_replays_its_graph_for_every_batch(
    weights: Path, precision: str
) -> None:
    """CUDA graphs write every result into the same memory: none may change an earlier one."""
    y = measurements(8)
    expected = davi.load(weights, "cuda", precision).restore(y, 2)
    restorer = davi.load(weights, "cuda", precision, compile=True)
    results = torch.cat([restorer.restore(part, 2, names=names) for part, names in halves(y)], 1)
    torch.testing.assert_close(results, expected, rtol=0, atol=0.05)


def halves(y: torch.Tensor) -> list[tuple[torch.Tensor, list[str]]]:
    """Two batches of one size, by the names the whole would have."""
    middle = len(y) // 2
    names = [str(index) for index in range(len(y))]
    return [(y[:middle], names[:middle]), (y[middle:], names[middle:])]


@pytest.mark.gpu
def test_a_gpu_gives_the_same_up_to_rounding(weights: Path) -> None:
    y = measurements()
    on_cpu, on_gpu = (davi.load(weights, device).restore(y, 2) for device in ("cpu", "cuda"))
    torch.testing.assert_close(on_gpu, on_cpu, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("y", "num_samples", "message"),
    [
        (
            torch.full((1, 3, 4, 4), 200.0),
            1,
            r"values up to 200; measurements are on the \[-1, 1\]",
        ),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 1, "torch.uint8; a floating-point"),
        (np.zeros((1, 3, 4, 4)), 1, "ndarray; a floating-point"),
        (torch.zeros(1, 3, 4, 4), 0, "num_samples=0: a whole number of at least 1"),
        (torch.zeros(1, 3, 4, 4), 1.5, r"num_samples=1\.5: a whole number"),
        (torch.zeros(0, 3, 4, 4), 1, r"shape \(0, 3, 4, 4\): .* B at least 1"),
        (torch.tensor(1.0), 1, r"shape \(\): .* needs \(B, 3, 4, 4\)"),
    ],
)
def test_what_is_no_measurement_is_refused(
    restorer: davi.Restorer, y: object, num_samples: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        restorer.restore(y, num_samples)


@pytest.mark.parametrize("names", [[], ["a"], ["a", "b", "c"], "ab", np.array(["a"])])
def test_each_measurement_needs_one_name(restorer: davi.Restorer, names: object) -> None:
    with pytest.raises(InputError, match=r"\d names for 2 measurements: each needs one"):
        restorer.restore(measurements(2), names=names)


def test_a_seed_is_a_whole_number(restorer: davi.Restorer) -> None:
    with pytest.raises(InputError, match=r"0\.5: a seed is a whole number"):
        restorer.restore(measurements(1), seed=0.5)


@pytest.mark.parametrize("size", [128, (64, 0), (-8, 8), (8,), (8, 8, 8), (8.0, 8), "8x8", "88"])
def test_a_size_is_height_and_width(weights: Path, size: object) -> None:
    with pytest.raises(InputError, match=r"size=.*: \(height, width\) is needed, in pixels"):
        davi.load(weights, "cpu", size=size)


def test_an_unknown_precision_is_refused(weights: Path) -> None:
    with pytest.raises(InputError, match="precision 'half' is unknown: use fp32, bf16, fp16"):
        davi.load(weights, "cpu", "half")


def test_a_device_of_pytorch_is_taken(weights: Path) -> None:
    assert davi.load(weights, torch.device("cpu")).device == torch.device("cpu")
    with pytest.raises(InputError, match="device 'meta' is unknown"):
        davi.load(weights, torch.device("meta"))


def test_wrong_shapes_and_nan_are_refused(restorer: davi.Restorer) -> None:
    for shape in [(1, 1, 4, 4), (1, 3, 4), (3, 4, 4), (1, 3, 0, 4)]:
        with pytest.raises(InputError, match=r"3x4x4 .* needed, or another height and width"):
            restorer.restore(torch.zeros(shape))
    with pytest.raises(InputError, match="NaN or infinity"):
        restorer.restore(torch.full((1, 3, 4, 4), torch.nan))


def test_files_that_hold_no_generator_are_refused(
    tmp_path: Path, tiny_prior: Path, weights: Path
) -> None:
    with pytest.raises(InputError, match="holds a davi prior, a davi generator is needed"):
        davi.load(tiny_prior, "cpu")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="holds no network known here"):
        davi.load(tmp_path / "other.safetensors", "cpu")
    with pytest.raises(InputError, match=r"absent: no such file or run folder"):
        davi.load(tmp_path / "absent", "cpu")
    with pytest.raises(InputError, match="so it is no run folder"):
        davi.load(tmp_path, "cpu")
    torch.save({"a": torch.zeros(1)}, tmp_path / "plain.pt")
    with pytest.raises(CheckpointError, match=r"plain\.pt: holds no network known here"):
        davi.load(tmp_path / "plain.pt", "cpu")
    (tmp_path / "broken.pt").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=r"broken\.pt: .*damaged"):
        davi.load(tmp_path / "broken.pt", "cpu")
    content = weights.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors: damaged"):
        davi.load(tmp_path / "cut.safetensors", "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_a_missing_gpu_is_named(weights: Path) -> None:
    with pytest.raises(InputError, match="device 'cuda' is not available: PyTorch sees 0"):
        davi.load(weights, "cuda")


def test_unknown_devices_are_refused() -> None:
    for name in ("gpu", "mps", "meta", "cuda:", "cpu:0"):
        with pytest.raises(InputError, match=f"device '{name}' is unknown"):
            select_device(name)
    assert select_device("cpu").type == "cpu"


def test_intervals_of_a_calibration_contain_what_they_say(restorer: davi.Restorer) -> None:
    y, truth = measurements(6), measurements(6).repeat_interleave(4, 2).repeat_interleave(4, 3)
    found = restorer.calibrate(y, truth, level=0.8, num_samples=4)
    low, high = restorer.interval(restorer.restore(y, 4), 0.8, found)
    assert low.shape == high.shape == truth.shape
    assert found.coverage_after >= 0.8
    assert found.restorer == restorer.settings
    assert len(found.restorer["weights_sha256"]) == 64
    with pytest.raises(InputError, match=r"level 0\.8 needs at least 9 samples .*; there are 4"):
        restorer.interval(restorer.restore(y, 4), 0.8)
    with pytest.raises(InputError, match="num_samples: 4 -> 5"):
        restorer.interval(restorer.restore(y, 5), 0.8, found)
    with pytest.raises(InputError, match=r"truth of shape \(6, 3, 4, 4\)"):
        restorer.calibrate(y, y, level=0.8, num_samples=4)


def test_calibrating_samples_have_draws_of_their_own(restorer: davi.Restorer) -> None:
    """So that a new measurement of the same name is exchangeable with the calibrating ones."""
    y, zero = measurements(1), torch.zeros(1, 3, 16, 16)
    own = restorer.reach(y, zero, 0.5, 3, seed=0, names=["0"])
    assert not torch.equal(own, reach(restorer.restore(y, 3), zero, 0.5).flatten(1))
