"""Blur kernels, and convolution with one for each image."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from torch import Tensor

from davi.operators.checking import check_adjoint
from davi.operators.convolution import Convolution, RandomConvolution, UnknownConvolution
from davi.operators.gaussian_blur import GaussianBlur
from davi.operators.kernels import gaussian_kernel_2d, motion_kernel
from davi.system.runtime import keyed_rng

SHAPE = (3, 20, 28)


def motion_kernels(count: int, size: int = 17, intensity: float = 0.5) -> Tensor:
    """(count, size, size)."""
    rngs = [keyed_rng("cpu", "kernel", index) for index in range(count)]
    return torch.stack([motion_kernel(size, rng, intensity) for rng in rngs])


def moments(kernels: Tensor) -> tuple[Tensor, Tensor]:
    """Centre of mass from the middle tap (B, 2), and covariance of the mass around it (B, 2, 2)."""
    kernels = kernels.double()
    along = torch.arange(kernels.shape[-1], dtype=torch.float64) - kernels.shape[-1] // 2
    places = torch.stack(torch.meshgrid(along, along, indexing="ij"))
    centre = torch.einsum("bij,cij->bc", kernels, places)
    return centre, torch.einsum("bij,cij,dij->bcd", kernels, places, places)


def test_motion_kernels_are_distributions_around_the_middle_tap() -> None:
    for size, intensity in ((17, 0.5), (5, 1.0), (33, 0.0), (1, 0.5)):
        kernels = motion_kernels(50, size, intensity)
        assert (kernels >= 0).all()
        torch.testing.assert_close(kernels.sum(dim=(1, 2)), torch.ones(50))
        assert moments(kernels)[0].abs().max() < 1e-5


def test_motion_kernels_have_the_size_of_the_recipe_and_every_direction() -> None:
    _, covariance = moments(motion_kernels(400))
    radius = covariance.diagonal(dim1=1, dim2=2).sum(dim=1).sqrt()
    assert 2.5 < radius.mean() < 3.5  # about 2.8 pixels of 17 taps
    assert radius.std() > 1
    mean = covariance.mean(dim=0)
    assert abs(mean[0, 0] / mean[1, 1] - 1) < 0.2
    assert abs(mean[0, 1]) < 0.1 * mean[0, 0]


def test_without_intensity_the_motion_is_straight() -> None:
    def thickness(kernels: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(moments(kernels)[1])[:, 0]

    straight, bent = (thickness(motion_kernels(100, 17, each)) for each in (0.0, 1.0))
    assert straight.max() < 0.26  # bilinear shares add at most a quarter in each direction
    assert bent.max() > 2


def test_a_gaussian_kernel_is_the_gaussian_blur(rng: torch.Generator) -> None:
    x = torch.randn(2, *SHAPE, generator=rng, dtype=torch.float64)
    operator = Convolution(SHAPE, gaussian_kernel_2d(9, 1.3)[None, None])
    torch.testing.assert_close(operator.A(x), GaussianBlur(SHAPE, 9, 1.3).A(x), atol=1e-6, rtol=0)


def test_every_image_has_its_own_kernel(rng: torch.Generator) -> None:
    x, kernels = torch.randn(2, *SHAPE, generator=rng, dtype=torch.float64), motion_kernels(2)
    y = Convolution(SHAPE, kernels[:, None]).A(x)
    for image, kernel, blurred in zip(x, kernels, y, strict=True):
        direct = [correlate(c.numpy(), kernel.numpy(), mode="constant") for c in image]
        np.testing.assert_allclose(blurred, direct, atol=1e-12)


def test_the_adjoint_is_the_transpose() -> None:
    check_adjoint(Convolution(SHAPE, motion_kernels(2)[:, None]))


def test_the_family_draws_by_generator_alone() -> None:
    family = RandomConvolution(SHAPE, 9, lambda rng: motion_kernel(9, rng))
    both = family.sample([keyed_rng("cpu", index) for index in range(2)]).kernel
    (alone,) = family.sample([keyed_rng("cpu", 1)]).kernel
    assert both.shape == (2, 1, 9, 9)
    assert torch.equal(both[1], alone)
    assert not torch.equal(both[0], alone)


def test_an_unknown_convolution_knows_the_size_only() -> None:
    known = Convolution(SHAPE, motion_kernels(2)[:, None])
    unknown = known.unknown()
    assert vars(unknown) == {"image_shape": SHAPE, "measurement_shape": SHAPE, "kernel_size": 17}
    x = torch.ones(2, *SHAPE)
    torch.testing.assert_close(unknown.with_kernel(known.kernel).A(x), known.A(x))


def test_even_kernels_are_refused() -> None:
    for make in (
        lambda: motion_kernel(16, keyed_rng("cpu", 0)),
        lambda: gaussian_kernel_2d(4, 1.0),
        lambda: Convolution(SHAPE, torch.ones(1, 1, 4, 4)),
        lambda: UnknownConvolution(SHAPE, 2),
    ):
        with pytest.raises(ValueError, match="odd"):
            make()
    with pytest.raises(ValueError, match=r"\(B, 1, k, k\)"):
        Convolution(SHAPE, torch.ones(3, 3))
