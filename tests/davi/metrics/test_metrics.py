"""Metrics against closed forms, direct sums and other implementations."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from davi.data.images import from_uint8, load_image, save_image, to_uint8
from davi.metrics.scores import detail, frechet_distance, kernel_distances, kid, moments, psnr, ssim


def images(count: int = 3, height: int = 24, width: int = 24) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, height, width, generator=rng) * 2 - 1


def test_psnr_of_a_constant_offset_is_known() -> None:
    x = torch.zeros(2, 3, 8, 8)
    # An offset of 0.2 of a range of 2: 20 log10(2 / 0.2) = 20 dB.
    torch.testing.assert_close(psnr(x + 0.2, x), torch.full((2,), 20.0, dtype=torch.float64))


def test_psnr_is_per_image_and_clips_the_restoration() -> None:
    x = torch.ones(2, 3, 8, 8)
    values = psnr(torch.stack([x[0] + 5, x[1] - 0.2]), x)
    assert values[0] == math.inf
    assert values[1].item() == pytest.approx(20, abs=1e-5)


def test_ssim_is_one_for_equal_images_and_known_for_constants() -> None:
    x = images()
    torch.testing.assert_close(ssim(x, x), torch.ones(3, dtype=torch.float64))
    # Without variance only the luminance term is left: (2 m1 m2 + C1) / (m1^2 + m2^2 + C1).
    first, second, c1 = 0.5, 0.1, (0.01 * 2) ** 2
    expected = (2 * first * second + c1) / (first**2 + second**2 + c1)
    flat = torch.ones(1, 3, 24, 24)
    assert ssim(first * flat, second * flat).item() == pytest.approx(expected, rel=1e-6)


def test_ssim_is_that_of_scikit_image() -> None:
    reference = images(2, 31, 44)
    x = reference + 0.5 * images(2, 31, 44).flip(-1)
    expected = [
        structural_similarity(
            image.clamp(-1, 1).double().numpy(),
            truth.double().numpy(),
            data_range=2,
            channel_axis=0,
            gaussian_weights=True,
            use_sample_covariance=False,
        )
        for image, truth in zip(x, reference, strict=True)
    ]
    np.testing.assert_allclose(ssim(x, reference).numpy(), expected, rtol=1e-10)


def test_detail_is_0_for_the_image_itself_and_falls_with_blur(rng: torch.Generator) -> None:
    x = 0.2 * torch.randn(4, 3, 32, 32, generator=rng)
    assert torch.equal(detail(x, x), torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(
        detail(x / 10, x), torch.full((4,), -20.0, dtype=torch.float64), rtol=0, atol=0.1
    )
    assert (detail(F.avg_pool2d(x, 3, 1, 1), x) < -5).all()
    slow = torch.sin(torch.arange(32) * 2 * math.pi / 8).expand(1, 1, 32, 32)  # 1/8 cycle a pixel
    fast = torch.sin(torch.arange(32) * 2 * math.pi / 3.2).expand(1, 1, 32, 32)
    assert detail((slow + fast) / 2, fast).item() == pytest.approx(20 * math.log10(0.5), abs=1e-3)


def quantise(x: torch.Tensor, rounding: str) -> torch.Tensor:
    """What is read back of an image that was saved."""
    return from_uint8(to_uint8(x, rounding))


def test_rounding_to_the_nearest_level_is_that_of_the_files(tmp_path: Path) -> None:
    x = 1.2 * images(1)[0]
    save_image(x, tmp_path / "a.png")
    torch.testing.assert_close(quantise(x, "nearest"), load_image(tmp_path / "a.png"))


def test_truncation_is_that_of_the_release(tmp_path: Path) -> None:
    x, truth = images(1)[0], images(2)[1]
    pixels = ((x.permute(1, 2, 0).numpy() + 1) / 2 * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    torch.testing.assert_close(quantise(x, "truncate"), load_image(tmp_path / "a.png"))
    saved = np.asarray(Image.open(tmp_path / "a.png")).transpose(2, 0, 1) / 255
    expected = peak_signal_noise_ratio((truth.double().numpy() + 1) / 2, saved, data_range=1)
    value = psnr(quantise(x, "truncate")[None], truth[None]).item()
    assert value == pytest.approx(expected, rel=1e-6)


def test_truncation_makes_images_darker_by_half_a_level() -> None:
    x = images(4, 64, 64)
    assert (quantise(x, "nearest") - x).mean().item() * 127.5 == pytest.approx(0, abs=0.01)
    assert (quantise(x, "truncate") - x).mean().item() * 127.5 == pytest.approx(-0.5, abs=0.01)
    levels = torch.arange(256) * (2 / 255) - 1
    torch.testing.assert_close(quantise(levels, "nearest"), levels)


def rotation(random: np.random.Generator, dimension: int) -> np.ndarray:
    return np.linalg.qr(random.normal(size=(dimension, dimension)))[0]


def test_frechet_distance_of_commuting_covariances_is_known() -> None:
    random = np.random.default_rng(0)
    axes, a, b = rotation(random, 30), random.gamma(1, size=30), random.gamma(1, size=30)
    a[:10] = b[5:15] = 0  # of deficient, different ranks
    shift = random.normal(size=30)
    value = frechet_distance(np.zeros(30), (axes * a) @ axes.T, shift, (axes * b) @ axes.T)
    expected = np.sum(shift**2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert value == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_a_shift_is_its_square() -> None:
    features = np.random.default_rng(0).normal(size=(40, 64))
    value = frechet_distance(*moments(features), *moments(features + 0.25))
    assert value == pytest.approx(64 * 0.25**2, abs=1e-4)


def test_frechet_distance_agrees_with_the_matrix_root() -> None:
    random = np.random.default_rng(0)
    first, second = (
        moments(random.normal(size=(400, 12)) @ random.normal(size=(12, 12))) for _ in range(2)
    )
    root = scipy.linalg.sqrtm(first[1] @ second[1]).real
    expected = np.sum((first[0] - second[0]) ** 2) + np.trace(first[1] + second[1] - 2 * root)
    assert frechet_distance(*first, *second) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("count", "dimension"), [(125, 256), pytest.param(1000, 2048, marks=pytest.mark.slow)]
)
def test_frechet_distance_survives_fewer_images_than_features(count: int, dimension: int) -> None:
    """The trace of the root is the sum of the singular values of the centred X Y^T / (N - 1)."""
    random = np.random.default_rng(0)
    mixing = random.normal(size=(dimension, dimension)) / np.sqrt(dimension)
    x = random.gamma(1, 0.5, size=(count, dimension))
    y = random.gamma(1, 0.5, size=(count, dimension)) @ mixing
    centred_x, centred_y = x - x.mean(axis=0), y - y.mean(axis=0)
    singular_values = np.linalg.svd(centred_x @ centred_y.T, compute_uv=False)
    traces = np.sum(centred_x**2) + np.sum(centred_y**2) - 2 * singular_values.sum()
    expected = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2) + traces / (count - 1)
    assert frechet_distance(*moments(x), *moments(y)) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(*moments(x), *moments(x)) == pytest.approx(0, abs=1e-4)


def kernel(a: np.ndarray, b: np.ndarray) -> float:
    return (a @ b / len(a) + 1) ** 3


def direct_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The definition, term by term."""
    n, m = len(x), len(y)
    within = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    within_2 = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    across = sum(kernel(a, b) for a in x for b in y)
    return within / (n * (n - 1)) + within_2 / (m * (m - 1)) - 2 * across / (n * m)


def test_kid_is_the_double_loop_of_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("davi.metrics.scores.KERNEL_ROWS", 3)  # blocks, the last of which is short
    random = np.random.default_rng(0)
    x, y = random.normal(size=(7, 5)), random.normal(0.5, size=(8, 5))
    chosen = np.array([[1] * 7, [1, 0, 0, 1, 1, 0, 1]])
    chosen_2 = np.array([[1] * 8, [0, 1, 0, 1, 0, 1, 0, 0]])
    values = kernel_distances(x, y, chosen, chosen_2)
    parts = direct_mmd(x[chosen[1] == 1], y[chosen_2[1] == 1])
    np.testing.assert_allclose(values, [direct_mmd(x, y), parts], rtol=1e-10)


def test_kid_of_two_samples_of_one_distribution_is_zero_on_average() -> None:
    random = np.random.default_rng(0)
    values = [kid(*random.normal(size=(2, 12, 6)), 1, 0)[0] for _ in range(1000)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    # The sums with i = j, left out, would have added this.
    diagonal = np.mean([kernel(a, a) for a in random.normal(size=(1000, 6))])
    assert error < diagonal / 12 / 10


def test_kid_is_centred_on_its_halves_and_its_error_is_honest() -> None:
    random = np.random.default_rng(0)
    values, errors = [], []
    for _ in range(100):
        x, y = random.normal(size=(100, 8)), random.normal(0.4, size=(100, 8))
        value, halves = kid(x, y, 100, 0)
        assert abs(halves.mean() - value) < 4 * halves.std() / np.sqrt(100)
        values.append(value)
        errors.append(halves.std())
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)


def test_kid_is_a_function_of_its_seed() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 10, 4))
    first, second, other = kid(x, y, 5, 0), kid(x, y, 5, 0), kid(x, y, 5, 1)
    np.testing.assert_array_equal(first[1], second[1])
    assert first[0] == second[0] == other[0]
    assert not np.array_equal(first[1], other[1])
