"""Every operator against an independent direct form, the rules of an SVD, and the release."""

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from davi.operators.colorization import Colorization
from davi.operators.denoising import Denoising
from davi.operators.gaussian_blur import (
    CircularBlur,
    GaussianBlur,
    ReleaseGaussianBlur,
    circular_gaussian_blur,
    gaussian_kernel,
)
from davi.operators.inpainting import (
    Inpainting,
    RandomInpainting,
    centred_box,
    random_box,
    random_pixels,
)
from davi.operators.super_resolution import SuperResolution, bicubic_kernel
from davi.operators.svd import SVDOperator
from davi.system.runtime import keyed_rng
from tests.conftest import sine_image

Shape = tuple[int, int, int]


def random_mask(shape: Shape) -> Tensor:
    return random_pixels(*shape[1:], 0.4, keyed_rng("cpu", "mask"))


def lopsided_kernel(*size: int) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.3


OPERATORS: dict[str, Callable[[Shape], SVDOperator]] = {
    "denoising": Denoising,
    "inpainting": lambda shape: Inpainting(shape, random_mask(shape)),
    "colorization": Colorization,
    "colorization_weighted": lambda shape: Colorization(shape, range(1, shape[0] + 1)),
    "super_resolution": lambda shape: SuperResolution(shape, 4),
    "super_resolution_bicubic": lambda shape: SuperResolution(shape, 4, "bicubic"),
    "gaussian_blur": lambda shape: GaussianBlur(shape, 9, 1.3),
    "gaussian_blur_floor": lambda shape: GaussianBlur(shape, 9, 1.3, floor=0.03),
    "gaussian_blur_release": lambda shape: ReleaseGaussianBlur(shape, 9, 1.3),
    "gaussian_blur_circular": lambda shape: circular_gaussian_blur(shape, 9, 1.3),
    "circular_blur": lambda shape: CircularBlur(shape, lopsided_kernel(5, 8)),
}
SHAPES = [(3, 32, 32), (1, 16, 28), (4, 24, 12), (2, 64, 4)]
each_operator = pytest.mark.parametrize("name", OPERATORS)


def random_pair(operator: SVDOperator, batch: int = 2) -> tuple[Tensor, Tensor]:
    """A random image and a random measurement in the range of U, float64."""
    rng = torch.Generator().manual_seed(4)
    x = torch.randn(batch, *operator.image_shape, generator=rng, dtype=torch.float64)
    y = torch.randn(batch, *operator.measurement_shape, generator=rng, dtype=torch.float64)
    return x, operator.project(y)


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


@each_operator
def test_adjoint_is_the_transpose(name: str) -> None:
    for operator in map(OPERATORS[name], SHAPES):
        x, y = random_pair(operator)
        torch.testing.assert_close(dot(operator.A(x), y), dot(x, operator.A_adjoint(y)))


@each_operator
def test_v_is_orthogonal(name: str) -> None:
    for operator in map(OPERATORS[name], SHAPES):
        x, _ = random_pair(operator)
        spectrum = operator.V_adjoint(x)
        assert spectrum.shape == x.shape
        torch.testing.assert_close(operator.V(spectrum), x)
        torch.testing.assert_close(operator.V_adjoint(operator.V(x)), x)
        torch.testing.assert_close(spectrum.norm(), x.norm())


@each_operator
def test_u_is_orthogonal_on_measurements(name: str) -> None:
    for operator in map(OPERATORS[name], SHAPES):
        _, y = random_pair(operator)
        spectrum = operator.U_adjoint(y)
        assert spectrum.shape[1:] == operator.image_shape
        torch.testing.assert_close(operator.U(spectrum), y)
        torch.testing.assert_close(spectrum.norm(), y.norm())


@each_operator
def test_pseudo_inverse_satisfies_penrose(name: str) -> None:
    for operator in map(OPERATORS[name], SHAPES):
        x, y = random_pair(operator)
        if name in (
            "gaussian_blur",
            "gaussian_blur_circular",
        ):  # not all of it is inverted; compare on what is
            inverted = operator.inverse_singular_values > 0
            x = operator.V(operator.V_adjoint(x) * inverted)
            y = operator.U(operator.U_adjoint(y) * inverted)
        Ax, A_dagger_y = operator.A(x), operator.A_dagger(y)
        torch.testing.assert_close(operator.A(operator.A_dagger(Ax)), Ax)
        torch.testing.assert_close(operator.A_dagger(operator.A(A_dagger_y)), A_dagger_y)
        # A A^+ and A^+ A are symmetric
        x2, y2 = random_pair(operator)
        torch.testing.assert_close(
            dot(operator.A(A_dagger_y), y2), dot(y, operator.A(operator.A_dagger(y2)))
        )
        torch.testing.assert_close(
            dot(operator.A_dagger(Ax), x2), dot(x, operator.A_dagger(operator.A(x2)))
        )


@each_operator
def test_direct_forms_are_those_of_the_decomposition(name: str) -> None:
    for operator in map(OPERATORS[name], SHAPES):
        x, y = random_pair(operator)
        s, inverse = operator.singular_values, operator.inverse_singular_values
        assert inverse.max() > 0
        torch.testing.assert_close(operator.A(x), operator.U(s * operator.V_adjoint(x)))
        torch.testing.assert_close(operator.A_adjoint(y), operator.V(s * operator.U_adjoint(y)))
        dagger = operator.V(inverse * operator.U_adjoint(y))
        torch.testing.assert_close(operator.A_dagger(y), dagger)


@each_operator
def test_singular_values_are_those_of_the_dense_matrix(name: str) -> None:
    operator = OPERATORS[name]((3, 8, 12))
    size = 3 * 8 * 12
    basis = torch.eye(size, dtype=torch.float64).view(size, 3, 8, 12)
    matrix = operator.A(basis).flatten(1).T
    dense = torch.linalg.svdvals(matrix)
    own = operator.singular_values.expand(3, 8, 12).flatten().sort(descending=True).values
    torch.testing.assert_close(own[: len(dense)], dense, rtol=0, atol=1e-12)
    assert own[len(dense) :].abs().max().item() < 1e-12 if len(own) > len(dense) else True


def test_blur_is_a_zero_padded_convolution(rng: torch.Generator) -> None:
    for shape in SHAPES:
        operator = GaussianBlur(shape, 9, 1.3)
        x = torch.randn(2, *shape, generator=rng)
        kernel = gaussian_kernel(9, 1.3).float()
        weight = torch.outer(kernel, kernel).expand(shape[0], 1, 9, 9)
        expected = F.conv2d(x, weight, padding=4, groups=shape[0])
        torch.testing.assert_close(operator.A(x), expected, rtol=0, atol=1e-5)


def test_a_kernel_longer_than_the_image_is_a_convolution_too(rng: torch.Generator) -> None:
    x = torch.randn(1, 3, 24, 20, generator=rng)
    kernel = gaussian_kernel(61, 3.0).float()
    weight = torch.outer(kernel, kernel).expand(3, 1, 61, 61)
    expected = F.conv2d(x, weight, padding=30, groups=3)
    torch.testing.assert_close(GaussianBlur((3, 24, 20)).A(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(5, 8), (4, 1), (41, 30)])  # the last is larger than the images
def test_a_circular_blur_is_a_circular_convolution(size: tuple[int, int]) -> None:
    kernel = lopsided_kernel(*size)
    for shape in ((3, 16, 20), (2, 15, 13), (1, 9, 10)):
        x = torch.randn(2, *shape, dtype=torch.float64)
        expected = torch.zeros_like(x)
        for row, column in np.ndindex(size):
            offset = row - size[0] // 2, column - size[1] // 2
            expected += kernel[row, column] * x.roll(offset, dims=(-2, -1))
        torch.testing.assert_close(CircularBlur(shape, kernel).A(x), expected)


def test_a_circular_gaussian_blur_is_the_other_one_away_from_the_border(
    rng: torch.Generator,
) -> None:
    x = torch.randn(1, 3, 40, 30, generator=rng)
    found, other = circular_gaussian_blur((3, 40, 30), 9, 1.3), GaussianBlur((3, 40, 30), 9, 1.3)
    inner = (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(found.A(x)[inner], other.A(x)[inner], rtol=0, atol=1e-5)
    assert (found.A(x) - other.A(x)).abs().max() > 0.1


def test_frequencies_that_a_circular_blur_takes_away_are_not_invented() -> None:
    box = CircularBlur((1, 8, 8), torch.full((1, 4), 0.25))  # gain 0 at frequencies 2, 4 and 6
    assert (box.singular_values == 0).sum().item() == 3 * 8
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    spectrum = torch.fft.fft(x)
    spectrum[..., [2, 4, 6]] = 0
    torch.testing.assert_close(box.A_dagger(box.A(x)), torch.fft.ifft(spectrum).real)
    wide = circular_gaussian_blur((1, 16, 16), 61, 3.0)
    kept = wide.inverse_singular_values > 0
    assert wide.singular_values[kept].min() >= 9e-4 > wide.singular_values[~kept].max()


def test_release_blur_is_not_the_nominal_one(rng: torch.Generator) -> None:
    x = F.avg_pool2d(torch.randn(1, 3, 256, 256, generator=rng), 9, stride=1, padding=4)
    exact, release = GaussianBlur((3, 64, 64)), ReleaseGaussianBlur((3, 64, 64))
    x = x[..., :64, :64]
    assert (release.A(x) - exact.A(x)).norm() / exact.A(x).norm() > 0.1


def test_the_pseudo_inverse_of_a_blur_leaves_out_what_would_amplify_noise() -> None:
    """Singular values of rows or columns below 0.03 are those of the convolution's matrix."""
    kernel = gaussian_kernel(9, 1.3)
    matrix = F.conv1d(torch.eye(32, dtype=torch.float64)[:, None], kernel[None, None], padding=4)
    values = torch.linalg.svdvals(matrix[:, 0])
    kept = torch.where(values >= 0.03, 1 / values, 0.0)
    assert 0 < (kept > 0).sum() < 32
    found = GaussianBlur((3, 32, 32), 9, 1.3).inverse_singular_values.flatten()
    expected = torch.outer(kept, kept).flatten()
    torch.testing.assert_close(found.sort().values, expected.sort().values)


def test_kernel_is_a_normalised_gaussian() -> None:
    kernel = gaussian_kernel(61, 3.0)
    assert kernel.sum().item() == pytest.approx(1)
    assert (kernel[33] / kernel[30]).item() == pytest.approx(np.exp(-0.5))


def test_average_super_resolution_is_average_pooling(rng: torch.Generator) -> None:
    for shape in SHAPES:
        x = torch.randn(2, *shape, generator=rng)
        operator = SuperResolution(shape, 4)
        torch.testing.assert_close(operator.A(x), F.avg_pool2d(x, 4), rtol=0, atol=1e-6)
        nearest = F.interpolate(operator.A(x), scale_factor=4)
        torch.testing.assert_close(operator.A_dagger(operator.A(x)), nearest, rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bicubic_is_a_mirrored_strided_convolution(factor: int, rng: torch.Generator) -> None:
    size = 12 * factor
    x = torch.randn(2, 3, size, size, generator=rng, dtype=torch.float64)
    kernel = bicubic_kernel(factor)
    pad = (len(kernel) - factor) // 2
    rows = np.pad(x.numpy(), [(0, 0), (0, 0), (pad, pad), (pad, pad)], mode="symmetric")
    weight = torch.outer(kernel, kernel).expand(3, 1, -1, -1)
    expected = F.conv2d(torch.from_numpy(rows), weight, stride=factor, groups=3)
    torch.testing.assert_close(SuperResolution((3, size, size), factor, "bicubic").A(x), expected)


def test_bicubic_equals_antialiased_torch_away_from_the_borders(rng: torch.Generator) -> None:
    x = torch.randn(1, 3, 64, 64, generator=rng)
    own = SuperResolution((3, 64, 64), 4, "bicubic").A(x)
    theirs = F.interpolate(x, scale_factor=0.25, mode="bicubic", antialias=True)
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(own[inner], theirs[inner], rtol=0, atol=1e-5)


def test_colorization_is_a_channel_mean(rng: torch.Generator) -> None:
    for shape in SHAPES:
        x = torch.randn(2, *shape, generator=rng)
        expected = x.mean(dim=1, keepdim=True)
        torch.testing.assert_close(Colorization(shape).A(x), expected, rtol=0, atol=1e-6)
        weights = torch.linspace(-1, 2, shape[0])
        weighted = (x * weights[:, None, None]).sum(dim=1, keepdim=True)
        operator = Colorization(shape, weights.tolist())
        torch.testing.assert_close(operator.A(x), weighted, rtol=0, atol=1e-6)


def test_inpainting_is_a_product_with_the_mask(rng: torch.Generator) -> None:
    for shape in SHAPES:
        x, mask = torch.randn(2, *shape, generator=rng), random_mask(shape)
        assert torch.equal(Inpainting(shape, mask).A(x), x * mask)


def test_inpainting_takes_a_mask_per_image(rng: torch.Generator) -> None:
    x = torch.randn(2, 3, 8, 8, generator=rng)
    masks = torch.stack([random_pixels(8, 8, 0.5, keyed_rng("cpu", i)) for i in range(2)])[:, None]
    operator = Inpainting((3, 8, 8), masks)
    assert torch.equal(operator.A(x), x * masks)
    assert torch.equal(operator.A_dagger(operator.A(x)), x * masks)


def test_denoising_is_the_identity(rng: torch.Generator) -> None:
    x = torch.randn(2, 3, 8, 8, generator=rng)
    assert torch.equal(Denoising((3, 8, 8)).A(x), x)


def test_centred_box_is_where_the_release_has_it(golden_operators: dict) -> None:
    hole = ~centred_box(256, 256, 128)
    rows, columns = torch.where(hole)
    box = [rows.min(), rows.max(), columns.min(), columns.max()]
    assert box == golden_operators["inpainting_box_rows_cols_inclusive"].tolist()


def test_random_boxes_lie_inside_and_differ() -> None:
    masks = [random_box(16, 24, 8, keyed_rng("cpu", i)) for i in range(200)]
    assert {int((~mask).sum()) for mask in masks} == {64}
    corners = {tuple(torch.nonzero(~mask)[0].tolist()) for mask in masks}
    assert {top for top, _ in corners} == set(range(9))
    assert {left for _, left in corners} == set(range(17))


def test_random_inpainting_draws_by_generator_not_by_batch() -> None:
    family = RandomInpainting((3, 8, 8), lambda rng: random_pixels(8, 8, 0.5, rng))
    together = family.sample([keyed_rng("cpu", i) for i in range(3)]).singular_values
    alone = family.sample([keyed_rng("cpu", 2)]).singular_values
    assert torch.equal(together[2:], alone)
    assert not torch.equal(together[0], together[1])


def test_random_pixels_have_the_rate() -> None:
    mask = random_pixels(200, 200, 0.3, keyed_rng("cpu", "rate"))
    assert (~mask).float().mean().item() == pytest.approx(0.3, abs=0.01)


@each_operator
def test_keeps_dtype_and_does_not_mix_the_batch(name: str) -> None:
    operator = OPERATORS[name]((3, 16, 16))
    for dtype in (torch.float32, torch.float64):
        x = random_pair(operator, batch=3)[0].to(dtype)
        y = operator.A(x)
        assert y.dtype == operator.A_adjoint(y).dtype == operator.A_dagger(y).dtype == dtype
        torch.testing.assert_close(operator.A(x[1:2]), y[1:2])


@pytest.mark.gpu
@each_operator
def test_gives_the_same_on_a_gpu(name: str) -> None:
    operator = OPERATORS[name]((3, 32, 32))
    x = random_pair(operator)[0].float()
    y = operator.A(x)
    operator = operator.to("cuda")
    torch.testing.assert_close(operator.A(x.cuda()).cpu(), y, rtol=0, atol=1e-4)


@each_operator
def test_is_built_fast_and_small_at_256(name: str) -> None:
    seconds = []
    for _ in range(3):
        start = time.process_time()
        operator = OPERATORS[name]((3, 256, 256))
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.2  # on one core
    assert max(buffer.numel() for buffer in operator.buffers()) <= 3 * 256 * 256


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SuperResolution((3, 30, 32), 4), "30x32: both sides must be multiples"),
        (lambda: GaussianBlur((3, 32, 32), 8, 1.0), "kernel_size=8: must be odd"),
        (lambda: circular_gaussian_blur((3, 32, 32), 8, 1.0), "kernel_size=8: must be odd"),
        (lambda: Colorization((3, 8, 8), [1.0, 2.0]), "3 numbers needed"),
    ],
)
def test_impossible_operators_are_refused(build: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


RELEASE_OPERATORS: dict[str, tuple[Callable[[], SVDOperator], dict[str, float]]] = {
    # name: (operator, tolerance of A x, A^T A x and A^+ A x)
    "deno": (lambda: Denoising((3, 256, 256)), {}),
    "inpainting": (lambda: Inpainting((3, 256, 256), centred_box(256, 256, 128)), {}),
    "sr_averagepooling": (lambda: SuperResolution((3, 256, 256)), {}),
    "bicubic": (lambda: SuperResolution((3, 256, 256), kernel="bicubic"), {}),
    "colorization": (lambda: Colorization((3, 256, 256), (0.3333, 0.3334, 0.3333)), {}),
    # The record was made in float32 and A^+ amplifies its rounding: in float64 it is 3.7e-5 off.
    "gaussian_fixed": (lambda: GaussianBlur((3, 256, 256), floor=0.03), {"ApinvA": 5e-5}),
}


def check_against_record(
    name: str, operator: SVDOperator, record: dict, tolerances: dict[str, float]
) -> None:
    x = sine_image(3, 256, 256)
    y = operator.A(x)
    results = {"A": y, "AtA": operator.A_adjoint(y), "ApinvA": operator.A_dagger(y)}
    if name == "inpainting":  # the release keeps the measured entries only, pixel by pixel
        results["A"] = y[0].permute(1, 2, 0)[operator.singular_values.bool()]
    for kind, result in results.items():
        flat = result.flatten().numpy()
        assert flat.size == record[f"{name}_{kind}_numel"]
        tolerance = tolerances.get(kind, 1e-5)
        np.testing.assert_allclose(flat[::97], record[f"{name}_{kind}_sub"], 0, tolerance)


@pytest.mark.parametrize("name", RELEASE_OPERATORS)
def test_meets_the_release(name: str, golden_operators: dict) -> None:
    build, tolerances = RELEASE_OPERATORS[name]
    operator = build()
    check_against_record(name, operator, golden_operators, tolerances)
    values = operator.singular_values.expand(3, 256, 256)
    assert (values > 0).sum() == golden_operators[f"{name}_sing_nonzero"]
    assert values.max().item() == pytest.approx(golden_operators[f"{name}_sing_max"], abs=1e-6)


def relative_error(result: Tensor, record: np.ndarray) -> float:
    return float(np.linalg.norm(result.flatten().numpy()[::97] - record) / np.linalg.norm(record))


def test_release_blur_meets_the_release_up_to_ties(golden_operators: dict) -> None:
    operator, x = ReleaseGaussianBlur((3, 256, 256)), sine_image(3, 256, 256)
    y = operator.A(x)
    # Another order of ties moves the release itself by 1.8e-3 and 6.9e-3.
    assert relative_error(y, golden_operators["gaussian_A_sub"]) < 5e-3
    assert relative_error(operator.A_dagger(y), golden_operators["gaussian_ApinvA_sub"]) < 2e-2


@pytest.mark.parametrize("name", ["gaussian", "gaussian_fixed"])
def test_blur_with_recorded_factors_meets_the_release(name: str, golden_operators: dict) -> None:
    def recorded(key: str) -> Tensor:
        return torch.from_numpy(golden_operators[f"gaussian_{key}"].astype(np.float64))

    operator = ReleaseGaussianBlur((3, 256, 256))
    operator.rows_U.copy_(recorded("U_small"))
    operator.rows_V.copy_(recorded("V_small"))
    assert operator.columns_U is operator.rows_U
    values = recorded("singulars_small")
    operator._set_singular_values(torch.outer(values, values))
    if name == "gaussian":
        operator.reorder(recorded("perm").long())
    check_against_record(name, operator, golden_operators, {})


def test_lifted_measurements_meet_the_release(golden_operators: dict) -> None:
    from davi.operators.measurement import lift

    for name in ("sr_averagepooling", "bicubic", "colorization"):
        y = RELEASE_OPERATORS[name][0]().A(sine_image(3, 256, 256))
        lifted = lift(y, (3, 256, 256)).flatten().numpy()[::97]
        np.testing.assert_allclose(lifted, golden_operators[f"{name}_netinput_sub"], 0, 1e-5)
