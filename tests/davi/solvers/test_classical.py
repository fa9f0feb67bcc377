"""Classical methods against closed forms and direct loops, and what they refuse."""

import importlib.util

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve1d
from skimage import restoration
from torch import Tensor

from davi.operators.colorization import Colorization
from davi.operators.denoising import Denoising
from davi.operators.gaussian_blur import GaussianBlur, gaussian_kernel
from davi.operators.inpainting import Inpainting, centred_box
from davi.operators.linear import LinearOperator
from davi.operators.noise import GaussianNoise, PoissonNoise
from davi.operators.super_resolution import SuperResolution
from davi.solvers.base import Solver
from davi.solvers.biharmonic import Biharmonic
from davi.solvers.bm3d import BM3D
from davi.solvers.classical import ClassicalDenoiser
from davi.solvers.enlargement import Enlargement
from davi.solvers.non_local_means import NonLocalMeans
from davi.solvers.richardson_lucy import RichardsonLucy
from davi.solvers.total_variation import TotalVariation
from davi.solvers.wiener import Wiener
from davi.system.errors import InputError
from tests.davi.solvers.spectral_problems import isotropic_prior, restore, rngs_of

IMAGE = (3, 16, 16)
OPERATORS = {
    "denoising": Denoising(IMAGE),
    "gaussian_blur": GaussianBlur(IMAGE, 9, 1.5),
    "inpainting": Inpainting(IMAGE, centred_box(16, 16, 6)),
    "super_resolution": SuperResolution(IMAGE, 4),
    "colorization": Colorization(IMAGE),
}
TASKS: dict[Solver, str] = {
    Enlargement(kernel="bicubic"): "super_resolution",
    Enlargement(kernel="lanczos"): "super_resolution",
    TotalVariation(): "denoising",
    NonLocalMeans(): "denoising",
    BM3D(): "denoising",
    Wiener(): "gaussian_blur",
    RichardsonLucy(): "gaussian_blur",
    Biharmonic(): "inpainting",
}
DENOISERS = [solver for solver in TASKS if isinstance(solver, ClassicalDenoiser)]


def named(solver: Solver) -> str:
    return f"{solver.label} {getattr(solver, 'kernel', '')}".strip()


def require_package(solver: Solver) -> None:
    if isinstance(solver, BM3D):
        pytest.importorskip("bm3d")


def ramp(image_shape: tuple[int, int, int] = IMAGE) -> Tensor:
    """A plane that rises along both axes, another one in each channel."""
    channels, height, width = image_shape
    rows, columns = torch.arange(height)[:, None] / height, torch.arange(width) / width
    return torch.stack([0.3 * c * rows + 0.5 * columns - 0.6 for c in range(channels)])[None]


@pytest.mark.parametrize("solver", TASKS, ids=named)
def test_each_image_is_restored_by_itself_without_a_network(solver: Solver) -> None:
    require_package(solver)
    operator, prior = OPERATORS[TASKS[solver]], isotropic_prior()
    noise = GaussianNoise(0.1, 0.1)
    truth = ramp() * torch.tensor([1.0, 0.2, -0.5])[:, None, None, None]
    y, _ = noise.sample(operator.A(truth), rngs_of(range(3)))
    x = solver(y, operator, noise, prior, rngs_of(range(3)))
    assert (x.shape, x.dtype) == ((3, *IMAGE), torch.float32)
    assert (prior.evaluations.forward, prior.evaluations.backward) == (0, 0)
    torch.testing.assert_close(restore(solver, y[1:2], operator, 0.1), x[1:2])
    assert (x - truth).abs().mean() < 0.15


@pytest.mark.parametrize("solver", TASKS, ids=named)
def test_another_task_is_refused(solver: Solver) -> None:
    for task, operator in OPERATORS.items():
        if task != TASKS[solver]:
            y = torch.zeros(1, *operator.measurement_shape)
            with pytest.raises(InputError, match=rf"^{solver.label} needs .*; here are"):
                restore(solver, y, operator, 0.1)


@pytest.mark.parametrize("solver", [*DENOISERS, Wiener()], ids=named)
def test_unknown_noise_is_refused(solver: Solver) -> None:
    operator: LinearOperator = OPERATORS[TASKS[solver]]
    for noise in (PoissonNoise(1.0), GaussianNoise(0.1, 0.2)):
        with pytest.raises(InputError, match="needs Gaussian noise of one known sigma"):
            solver.require(operator, noise)


@pytest.mark.parametrize("solver", DENOISERS, ids=named)
def test_without_noise_there_is_nothing_to_remove(solver: Solver) -> None:
    require_package(solver)
    y = torch.rand(1, *IMAGE) - 0.5
    assert torch.equal(restore(solver, y, OPERATORS["denoising"], 0.0), y)


@pytest.mark.parametrize("solver", DENOISERS, ids=named)
def test_images_of_one_channel_are_denoised_too(solver: Solver) -> None:
    require_package(solver)
    y = ramp((1, 16, 24)) + 0.1 * torch.randn(1, 1, 16, 24)
    x = restore(solver, y, Denoising((1, 16, 24)), 0.1)
    assert x.shape == y.shape
    assert (x - ramp((1, 16, 24))).square().mean() < 0.6 * (y - ramp((1, 16, 24))).square().mean()


def test_bicubic_enlargement_of_a_ramp_is_a_ramp() -> None:
    """Block means of a ramp are a coarser ramp, and Keys' kernel reproduces it."""
    operator, truth = SuperResolution((3, 32, 40), 4), ramp((3, 32, 40))
    x = restore(Enlargement(kernel="bicubic"), operator.A(truth), operator, 0.0)
    inside = slice(8, -8)
    torch.testing.assert_close(x[..., inside, inside], truth[..., inside, inside])


def test_lanczos_enlargement_is_the_windowed_sinc() -> None:
    size, factor, lobes = 12, 4, 3
    operator = SuperResolution((1, size * factor, size * factor), factor)
    y = torch.rand(1, 1, size, size, dtype=torch.float64)
    weights = torch.zeros(size * factor, size, dtype=torch.float64)
    for fine in range(size * factor):
        for coarse in range(size):
            t = (fine + 0.5) / factor - (coarse + 0.5)
            if abs(t) < lobes:
                weights[fine, coarse] = np.sinc(t) * np.sinc(t / lobes)
    weights /= weights.sum(dim=1, keepdim=True)  # also where the image ends
    expected = weights @ y @ weights.T
    found = restore(Enlargement(kernel="lanczos"), y, operator, 0.0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_total_variation_moves_two_halves_towards_each_other() -> None:
    """Closed form: a region moves by weight sigma times its boundary, by its area."""
    y = torch.full((1, 1, 12, 8), -0.4)
    y[..., 4:] = 0.6
    x = restore(TotalVariation(weight=2.0), y, Denoising((1, 12, 8)), 0.1)
    expected = y + 2.0 * 0.1 * 12 / (12 * 4) * torch.where(y < 0, 1.0, -1.0)
    torch.testing.assert_close(x, expected, atol=2e-3, rtol=0)


def test_total_variation_without_weight_changes_nothing() -> None:
    y = torch.rand(1, *IMAGE) - 0.5
    x = restore(TotalVariation(weight=1e-6), y, OPERATORS["denoising"], 0.1)
    torch.testing.assert_close(x, y, atol=1e-5, rtol=0)


def test_strong_non_local_means_are_means_of_the_window() -> None:
    y = torch.rand(1, 3, 11, 11)
    solver = NonLocalMeans(patch_size=3, patch_distance=2, strength=1e4)
    found = restore(solver, y, Denoising((3, 11, 11)), 0.1)[..., 5, 5]
    expected = y[..., 3:8, 3:8].mean(dim=(-2, -1))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_non_local_means_are_told_the_noise_and_the_patches() -> None:
    y, operator = torch.rand(2, *IMAGE, dtype=torch.float64), OPERATORS["denoising"]
    found = restore(NonLocalMeans(patch_size=5, patch_distance=3, strength=0.8), y, operator, 0.2)
    options = {"patch_size": 5, "patch_distance": 3, "h": 0.8 * 0.2, "sigma": 0.2}
    for image, restored in zip(y.numpy(), found.numpy(), strict=True):
        expected = restoration.denoise_nl_means(image, **options, channel_axis=0)
        np.testing.assert_allclose(restored, expected)


@pytest.mark.parametrize("solver", DENOISERS, ids=named)
def test_a_denoiser_knows_no_scale(solver: Solver) -> None:
    require_package(solver)
    y = ramp() + 0.2 * torch.randn(1, *IMAGE)
    x = restore(solver, y, OPERATORS["denoising"], 0.2)
    larger = restore(solver, 3 * y, OPERATORS["denoising"], 0.6)
    torch.testing.assert_close(larger, 3 * x, atol=1e-4, rtol=0)


def test_bm3d_removes_most_of_the_noise() -> None:
    pytest.importorskip("bm3d")
    y = ramp() + 0.2 * torch.randn(1, *IMAGE)
    x = restore(BM3D(), y, OPERATORS["denoising"], 0.2)
    assert (x - ramp()).square().mean() < 0.2**2 / 4


def test_bm3d_takes_three_equal_channels_for_one_less_noisy_one() -> None:
    pytest.importorskip("bm3d")
    gray = ramp((1, 16, 16)) + 0.1 * torch.randn(1, 1, 16, 16)
    x = restore(BM3D(), gray.expand(1, *IMAGE), OPERATORS["denoising"], 0.1 * 3**0.5)
    alone = restore(BM3D(), gray, Denoising((1, 16, 16)), 0.1)
    torch.testing.assert_close(x, alone.expand_as(x), atol=1e-5, rtol=0)


def test_bm3d_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'davi\[bm3d\]'$"):
        BM3D().require(OPERATORS["denoising"], GaussianNoise(0.1, 0.1))


def test_bm3d_refuses_images_that_crash_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(InputError, match="at least 16x16"):
        BM3D().require(Denoising((3, 64, 8)), GaussianNoise(0.1, 0.1))


def test_wiener_is_the_posterior_mean_of_white_images() -> None:
    """Against the normal equations, with A as a matrix."""
    operator, sigma, signal = GaussianBlur((1, 6, 6), 5, 1.0), 0.1, 0.4
    units = torch.eye(36, dtype=torch.float64).view(36, 1, 6, 6)
    A = operator.A(units).flatten(1).T
    y = torch.randn(2, 1, 6, 6, dtype=torch.float64)
    precision = A.T @ A / sigma**2 + torch.eye(36) / signal**2
    expected = torch.linalg.solve(precision, A.T @ y.flatten(1).T / sigma**2).T
    found = restore(Wiener(signal=signal), y, operator, sigma)
    torch.testing.assert_close(found.flatten(1), expected)


def test_wiener_is_finite_without_noise() -> None:
    operator = GaussianBlur((1, 32, 32), 61, 3.0)  # singular values down to 1e-20
    x = ramp((1, 32, 32))
    assert (restore(Wiener(), operator.A(x), operator, 0.0) - x).abs().max() < 0.5


def test_richardson_lucy_is_its_formula_with_gray_beyond_the_border() -> None:
    """A direct loop with SciPy's convolution of images that go on as 0, half of the intensity."""
    operator, kernel = GaussianBlur((1, 12, 10), 7, 1.2), gaussian_kernel(7, 1.2).numpy()

    def blur(image: np.ndarray, beyond: float) -> np.ndarray:
        for axis in (0, 1):
            image = convolve1d(image, kernel, axis=axis, mode="constant", cval=beyond)
        return image

    y = torch.rand(1, 1, 12, 10, dtype=torch.float64) - 0.5
    measured, x = (y[0, 0].numpy() + 1) / 2, np.full((12, 10), 0.5)
    for _ in range(6):
        x = x * blur(measured / blur(x, 0.5), 0.0) / blur(np.ones((12, 10)), 0.0)
    found = restore(RichardsonLucy(num_iterations=6), y, operator, 0.1)[0, 0]
    torch.testing.assert_close(found, torch.from_numpy(2 * x - 1))


def test_richardson_lucy_never_gives_less_than_black() -> None:
    operator = OPERATORS["gaussian_blur"]
    y = 0.5 * torch.randn(1, *IMAGE) - 1
    assert restore(RichardsonLucy(num_iterations=100), y, operator, 0.5).min() >= -1


def test_a_mask_without_known_pixels_is_refused() -> None:
    hidden = Inpainting(IMAGE, torch.zeros(IMAGE[1:]))
    with pytest.raises(InputError, match="biharmonic needs a mask with known pixels"):
        Biharmonic().require(hidden, GaussianNoise(0.1, 0.1))


def test_biharmonic_inpainting_fills_a_plane_exactly() -> None:
    """Every image has its own hole; what is known stays."""
    masks = torch.stack([centred_box(16, 16, 6), centred_box(16, 16, 8).roll(2, 1)])[:, None]
    operator = Inpainting(IMAGE, masks)
    truth = ramp().repeat(2, 1, 1, 1)
    x = restore(Biharmonic(), operator.A(truth), operator, 0.0)
    torch.testing.assert_close(x, truth, atol=1e-5, rtol=0)
