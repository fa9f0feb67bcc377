"""The operators that are not linear, against direct implementations and what is known of them."""

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from davi.build import build_operator
from davi.config.problem import BksConfig
from davi.networks.kernel_wizard import KernelWizard, Level, read_kernel_wizard
from davi.operators.bks import Bks
from davi.operators.checking import check_vjp
from davi.operators.hdr import Hdr
from davi.operators.jpeg import Jpeg
from davi.operators.noise import GaussianNoise
from davi.operators.nonlinear_blur import NonlinearBlur, camera_path
from davi.operators.operator import Operator
from davi.operators.phase_retrieval import PhaseRetrieval
from davi.system.errors import InputError
from davi.terms import consistency_term

IMAGE = (3, 16, 16)


class Smooth(Jpeg):
    """JPEG with its stand-in for values, too."""

    A = Jpeg.smooth


OPERATORS = {
    "nonlinear_blur": NonlinearBlur(IMAGE),
    "hdr": Hdr(IMAGE),
    "phase_retrieval": PhaseRetrieval(IMAGE),
    "jpeg": Smooth(IMAGE),
    "jpeg_full_chroma": Smooth(IMAGE, 50, subsampling=0),
    "jpeg_grey": Smooth((1, 8, 24)),
}
each_operator = pytest.mark.parametrize("name", OPERATORS)


def uniform(shape: tuple[int, int, int] = IMAGE, batch: int = 2) -> Tensor:
    return 2 * torch.rand(batch, *shape, dtype=torch.float64) - 1


def photograph(channels: int = 3) -> Tensor:
    """A crop of a photograph, (1, C, 64, 64) in [-1, 1]."""
    from skimage import data

    levels = data.astronaut()[100:164, 150:214, :channels].transpose(2, 0, 1).copy()
    return torch.from_numpy(levels)[None].double() / 127.5 - 1


@each_operator
def test_the_derivative_is_that_of_the_values(name: str) -> None:
    assert check_vjp(OPERATORS[name]) < 1e-5


@each_operator
def test_images_beyond_the_range_have_finite_measurements_and_gradients(name: str) -> None:
    operator = OPERATORS[name]
    x = 3 * torch.randn(2, *operator.image_shape)
    for image in (x, torch.zeros_like(x), torch.full_like(x, -1.0)):
        y = operator.A(image)
        assert y.shape == (2, *operator.measurement_shape)
        assert y.dtype == torch.float32
        assert torch.isfinite(y).all()
        assert torch.isfinite(operator.vjp(image, torch.ones_like(y))).all()


@each_operator
def test_the_consistency_of_training_goes_down_the_derivative(name: str) -> None:
    operator = OPERATORS[name]
    x = uniform(operator.image_shape).requires_grad_(True)
    y = operator.A(uniform(operator.image_shape))
    consistency_term(y, operator, GaussianNoise(0.05, 0.05), x).backward()
    expected = 2 / y.numel() * operator.vjp(x, operator.A(x).detach() - y)
    torch.testing.assert_close(x.grad, expected)


# Nonlinear blur.


def test_the_blur_is_the_mean_of_warped_light() -> None:
    """By scipy, pose by pose; the camera's curve is written out."""
    settings = {"num_poses": 5, "extent": 2.0, "rotation": 8.0, "gamma": 2.2, "gain": 1.5}
    operator, x = NonlinearBlur((1, 12, 20), **settings, seed=3), uniform((1, 12, 20), 1)
    light = ((x[0, 0].numpy() + 1) / 2 + 0.01) ** 2.2 - 0.01**2.2
    rows, columns = np.meshgrid(np.arange(12) - 5.5, np.arange(20) - 9.5, indexing="ij")
    total = np.zeros_like(light)
    for shift_x, shift_y, turn in camera_path(5, 3).numpy() * [2, 2, np.deg2rad(8)]:
        seen_y = np.sin(turn) * columns + np.cos(turn) * rows + shift_y + 5.5
        seen_x = np.cos(turn) * columns - np.sin(turn) * rows + shift_x + 9.5
        total += scipy.ndimage.map_coordinates(light, [seen_y, seen_x], order=1, mode="nearest")
    exposed = np.minimum(1.5 * total / 5, 1.01**2.2 - 0.01**2.2)
    expected = 2 * ((exposed + 0.01**2.2) ** (1 / 2.2) - 0.01) - 1
    torch.testing.assert_close(operator.A(x)[0, 0], torch.from_numpy(expected))


def test_a_still_camera_only_burns_out() -> None:
    x = uniform()
    still = {"extent": 0.0, "rotation": 0.0}
    torch.testing.assert_close(NonlinearBlur(IMAGE, **still, gain=1.0).A(x), x)
    burnt = NonlinearBlur(IMAGE, **still, gain=2.0)
    torch.testing.assert_close(burnt.A_dagger(burnt.A(0.4 * x - 0.6)), 0.4 * x - 0.6)
    bright = x > 2 * 2 ** (-1 / 2.2) - 1 + 0.02
    y = burnt.A(x)
    torch.testing.assert_close(y[bright], torch.ones_like(y[bright]))
    assert (y[~bright] < 1).any()
    assert not burnt.vjp(x, torch.ones_like(y))[bright].any()


def test_light_is_averaged_and_not_grey_levels() -> None:
    operator = NonlinearBlur(IMAGE)
    mean = operator.grey(operator.light(torch.tensor([0.1, 0.9])).mean())
    assert mean.item() == pytest.approx(0.66, abs=0.005)
    assert operator.grey(operator.light(torch.tensor(0.3))).item() == pytest.approx(0.3)


def test_at_low_contrast_it_is_a_linear_blur() -> None:
    """The derivative at a constant image is B, whatever the camera's curve."""
    operator = NonlinearBlur((1, 8, 8), gain=1.0)
    flat = torch.full((1, 1, 8, 8), 0.3, dtype=torch.float64)
    torch.testing.assert_close(operator.A(flat), flat)
    basis = torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)
    B = operator.average(basis).flatten(1).T
    r = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(operator.vjp(flat, r).flatten(), B.T @ r.flatten())


def test_the_path_of_the_camera_has_the_size_it_is_given() -> None:
    path = camera_path(15, 0)
    torch.testing.assert_close(path.mean(dim=0), torch.zeros(3, dtype=torch.float64))
    assert path[:, :2].square().sum(dim=1).mean().item() == pytest.approx(1)
    assert path[:, 2].square().mean().item() == pytest.approx(1)
    assert path.diff(dim=0).norm(dim=1).max() < 1  # smooth
    assert camera_path(15, 0).equal(path)
    assert not camera_path(15, 1).equal(path)


# HDR.


def test_hdr_cuts_off() -> None:
    x = torch.tensor([-0.9, -0.5, -0.2, 0.0, 0.4, 0.6]).repeat(3, 2, 1)[None]
    operator = Hdr((3, 2, 6))
    y = operator.A(x)
    torch.testing.assert_close(y[0, 0, 0], torch.tensor([-1.0, -1.0, -0.4, 0.0, 0.8, 1.0]))
    seen = operator.vjp(x, torch.ones_like(x))[0, 0, 0]
    assert seen[[0, 2, 3, 4, 5]].tolist() == [0, 2, 2, 2, 0]
    assert operator.A(operator.A_dagger(y)).equal(y)


# Phase retrieval.


def test_amplitudes_are_those_of_the_centred_fourier_sum() -> None:
    operator, x = PhaseRetrieval((2, 8, 16)), uniform((2, 8, 16))
    assert operator.measurement_shape == (2, 12, 24)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (4, 4)))
    rows, columns = (
        np.exp(-2j * np.pi * np.outer(n, n) / len(n)) / len(n) ** 0.5
        for n in (np.arange(12) - 6, np.arange(24) - 12)
    )
    expected = np.abs(rows @ padded @ columns.T)
    torch.testing.assert_close(operator.A(x), torch.from_numpy(expected))


def test_four_images_have_the_same_amplitudes() -> None:
    operator, x = PhaseRetrieval(IMAGE), uniform()
    y = operator.A(x)
    for other in (-x, x.rot90(2, (-2, -1)), -x.rot90(2, (-2, -1))):
        torch.testing.assert_close(operator.A(other), y)
    torch.testing.assert_close(y.norm(), x.norm())
    assert (operator.A(x.flip(-1)) - y).norm() > 0.1 * y.norm()


def test_the_derivative_of_amplitudes_is_the_known_one() -> None:
    """J^T r = P^T Re F^H (r Z / |Z|), by numpy."""
    operator, x = PhaseRetrieval(IMAGE), uniform()
    r = torch.randn(2, *operator.measurement_shape, dtype=torch.float64)
    axes = (-2, -1)
    padded = np.fft.ifftshift(np.pad(x.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4))), axes)
    Z = np.fft.fft2(padded, norm="ortho")
    turned = np.fft.ifftshift(r.numpy(), axes) * Z / np.abs(Z)
    back = np.fft.fftshift(np.fft.ifft2(turned, norm="ortho").real, axes)[..., 4:-4, 4:-4]
    torch.testing.assert_close(operator.vjp(x, r), torch.from_numpy(back.copy()))


def test_amplitudes_of_a_white_image_are_believed() -> None:
    operator = PhaseRetrieval((1, 64, 64))
    assert operator.measurement_shape == (1, 96, 96)
    largest = operator.A(torch.ones(1, 1, 64, 64)).max().item()
    assert largest == pytest.approx(64 * 64 / 96)
    assert largest > Operator.largest_value
    assert largest < operator.largest_value


def test_phases_of_0_bring_a_point_back() -> None:
    point = torch.zeros(1, *IMAGE, dtype=torch.float64)
    point[..., 8, 8] = 1
    operator = PhaseRetrieval(IMAGE)
    torch.testing.assert_close(operator.A_dagger(operator.A(point)), point)


# JPEG.


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("quality", [5, 10])
def test_the_steps_are_those_of_the_codec(
    channels: int,
    subsampling: int,
    quality: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But for the rounding to 8 bits, once the soft rounding is a hard one."""
    x = photograph(channels)
    operator = Jpeg((channels, 64, 64), quality, subsampling)
    pixels = ((x[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels.squeeze()).save(path, quality=quality, subsampling=subsampling)
    decoded = torch.from_numpy(np.array(Image.open(path))).double() / 127.5 - 1
    y = operator.A(x)
    torch.testing.assert_close(y[0], decoded.view(64, 64, channels).permute(2, 0, 1))
    monkeypatch.setattr(torch, "sin", lambda z: z - 2 * torch.pi * (z / 2 / torch.pi).round())
    steps = operator.smooth(x)
    assert (steps - y).norm() < 0.15 * (y - x).norm()


def test_small_chromas_are_enlarged_as_the_codec_does() -> None:
    """Stripes of colour: but for rounding, where a nearest neighbour would be 38 levels off."""
    stripes = 0.5 * (-1.0) ** (torch.arange(32, dtype=torch.float64) // 4)
    x = torch.stack([stripes, 0 * stripes, -stripes])[None, :, None].expand(1, 3, 32, 32)
    operator = Jpeg((3, 32, 32), quality=100)
    assert (127.5 * (operator.smooth(x) - operator.codec(x))).abs().max() < 2.5


def test_the_gradient_of_jpeg_is_that_of_the_soft_rounding() -> None:
    x, r = uniform(), torch.randn(2, *IMAGE, dtype=torch.float64)
    assert Jpeg(IMAGE).vjp(x, r).equal(Smooth(IMAGE).vjp(x, r))


def test_what_the_file_holds_as_0_stays_free() -> None:
    """A small ripple on grey 128 is gone, and nothing pulls at it; the mean is kept to its step."""
    operator = Jpeg((1, 8, 8), quality=10)
    grey = torch.full((1, 1, 8, 8), 1 / 255, dtype=torch.float64)
    ripple = (-1.0) ** torch.arange(8, dtype=torch.float64).expand(1, 1, 8, 8)
    torch.testing.assert_close(operator.A(grey + 0.02 * ripple), grey)
    assert operator.vjp(grey, ripple).abs().max() < 1e-12
    between = grey + operator.quanta[0, 0, 0] / 8 / 2 / 127.5  # halfway to the next step
    pull = operator.vjp(between, torch.ones_like(grey))
    torch.testing.assert_close(pull, 2 * torch.ones_like(pull))


@pytest.mark.parametrize("shape", [(3, 24, 16), (1, 12, 8), (2, 16, 16)])
def test_jpeg_refuses_broken_blocks(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="1 or 3 channels are needed, and sides that are"):
        Jpeg(shape)


# BKS, with random weights: those of its authors are not here.


@pytest.fixture(scope="module")
def wizard() -> KernelWizard:
    torch.manual_seed(0)
    return KernelWizard().requires_grad_(False)


def test_the_network_has_the_size_and_the_names_of_the_published_one(wizard: KernelWizard) -> None:
    assert sum(each.numel() for each in wizard.parameters()) == 23_662_531
    names = set(wizard.state_dict())
    bottom = ".".join(["adapter.model", *["submodule"] * 4])
    assert {"feature_extractor.4.weight", "feature_extractor.15.conv2.bias"} <= names
    assert {"recon_trunk.19.conv1.weight", "recon_trunk.20.bias", "recon_trunk.28.bias"} <= names
    assert {f"{bottom}.down.1.weight", f"{bottom}.up.1.weight", "adapter.model.up.1.bias"} <= names
    assert f"{bottom}.up.1.bias" not in names


def test_beside_a_level_goes_its_activated_input() -> None:
    level = Level(4)
    x, kernel = torch.randn(1, 512, 2, 2), torch.randn(1, 512, 1, 1)
    active = torch.where(x > 0, x, 0.2 * x)
    below = F.conv2d(active, level.down[1].weight, stride=2, padding=1)
    inside = torch.cat([below, kernel], dim=1).relu()
    up = F.conv_transpose2d(inside, level.up[1].weight, stride=2, padding=1)
    torch.testing.assert_close(level(x, kernel), torch.cat([up, active], dim=1))


def test_bks_is_the_network_with_one_kernel(wizard: KernelWizard) -> None:
    operator, x = Bks((3, 128, 128), wizard), uniform((3, 128, 128), 1).float()
    expected = 2 * wizard((x + 1) / 2, operator.kernel[None]) - 1
    torch.testing.assert_close(operator.A(x), expected.clamp(-1, 1))
    kernel = Bks((3, 256, 384), wizard).kernel
    assert kernel.shape == (512, 2, 3)
    assert kernel.std().item() == pytest.approx(1.2, rel=0.05)
    assert kernel.equal(Bks((3, 256, 384), wizard).kernel)
    assert not kernel.equal(Bks((3, 256, 384), wizard, seed=1).kernel)


def test_the_weights_of_bks_are_read_without_their_extractor(
    wizard: KernelWizard, tmp_path: Path
) -> None:
    weights = {**wizard.state_dict(), "kernel_extractor.model.1.weight": torch.zeros(3)}
    torch.save(weights, tmp_path / "GOPRO_wVAE.pth")
    config = BksConfig(name="bks", weights=str(tmp_path / "GOPRO_wVAE.pth"))
    network = build_operator(config, (3, 128, 128)).network
    torch.testing.assert_close(network.state_dict(), wizard.state_dict())
    assert not any(each.requires_grad for each in network.parameters())
    with pytest.raises(InputError, match="sides that are multiples of 128"):
        build_operator(config, (3, 64, 64))
    weights.pop("recon_trunk.28.bias")
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"1 names or shapes differ, the first is recon_trunk\.28"):
        read_kernel_wizard(tmp_path / "other.pth")


def test_without_its_weights_bks_says_so() -> None:
    config = BksConfig(name="bks", weights="missing/GOPRO_wVAE.pth")
    with pytest.raises(InputError, match=r"operator: missing/GOPRO_wVAE\.pth: no such weight file"):
        build_operator(config, (3, 128, 128))
