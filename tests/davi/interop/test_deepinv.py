"""deepinv's operators here and ours there, with the real library."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from davi.operators.checking import check_adjoint
from davi.operators.colorization import Colorization
from davi.operators.gaussian_blur import GaussianBlur
from davi.operators.inpainting import Inpainting
from davi.operators.linear import LinearOperator
from davi.operators.operator import ImageShape
from davi.operators.super_resolution import SuperResolution
from davi.restorer import load
from davi.solvers.ddnm_plus import DDNMPlus
from davi.solvers.ddrm import DDRM
from davi.solvers.diffpir import DiffPIR
from davi.solvers.dps import Dps
from davi.solvers.fps import FPS
from davi.solvers.pigdm import Pigdm
from davi.solvers.pseudo_inverse import PseudoInverse
from davi.solvers.red_diff import RedDiff
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng
from examples.motion_blur import MotionBlur
from tests.conftest import REPOSITORY
from tests.davi.solvers.spectral_problems import isotropic_prior
from tests.tiny import tiny_trainer, write_tiny_generator

theirs = pytest.importorskip("deepinv").physics
from davi.interop.deepinv import (  # noqa: E402 (needs deepinv)
    Model,
    OperatorPhysics,
    PhysicsOperator,
    SVDPhysics,
    noise_of,
    operator_of,
)

IMAGE, GRAY, COMPLEX = (3, 16, 16), (1, 16, 16), (2, 16, 16)
MASKS = (torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.5).float()
KERNEL = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(1))


def fourier() -> theirs.LinearPhysics:
    """Complex measurements of real images."""
    return theirs.LinearPhysics(
        A=lambda x: torch.fft.fft2(x, norm="ortho"),
        A_adjoint=lambda y: torch.fft.ifft2(y, norm="ortho"),
    )


THEIRS: dict[str, tuple[Callable[[], theirs.LinearPhysics], ImageShape, tuple[int, ...]]] = {
    "blur": (lambda: theirs.Blur(KERNEL), IMAGE, (3, 12, 12)),
    "blur by FFT": (lambda: theirs.BlurFFT(IMAGE, KERNEL), IMAGE, IMAGE),
    "gray": (lambda: theirs.Decolorize(3), IMAGE, GRAY),
    "tomography": (lambda: theirs.Tomography(8, 16, normalize=False), GRAY, (1, 23, 8)),
    "compressed sensing": (lambda: theirs.CompressedSensing(40, GRAY), GRAY, (40,)),
    "MRI": (lambda: theirs.MRI(MASKS[:1], COMPLEX), COMPLEX, COMPLEX),
    "complex": (fourier, IMAGE, (*IMAGE, 2)),
}
OURS: dict[str, Callable[[], LinearOperator]] = {
    "super-resolution": lambda: SuperResolution(IMAGE, 4),
    "blur": lambda: GaussianBlur(IMAGE, 9, 1.3),
    "colorization": lambda: Colorization(IMAGE),
    "a mask for each image": lambda: Inpainting(IMAGE, MASKS),
    "motion blur": lambda: MotionBlur(IMAGE, 5, 30.0),
}


def as_physics(operator: LinearOperator, **options: object) -> OperatorPhysics:
    kind = OperatorPhysics if isinstance(operator, MotionBlur) else SVDPhysics
    return kind(operator, **options)


@pytest.mark.parametrize("name", THEIRS)
def test_their_physics_are_operators(name: str) -> None:
    build, image_shape, measurement_shape = THEIRS[name]
    operator = PhysicsOperator(build(), image_shape)
    assert operator.measurement_shape == measurement_shape
    assert check_adjoint(operator) < 1e-5
    x = torch.randn(2, *image_shape)
    expected = build().A(x)
    expected = torch.view_as_real(expected) if expected.is_complex() else expected
    if name != "compressed sensing":  # which draws another matrix
        torch.testing.assert_close(operator.A(x), expected)
    assert operator.A_dagger(operator.A(x)).isfinite().all()


def test_physics_come_from_a_config_and_are_trained_for(tiny_prior: Path, tmp_path: Path) -> None:
    """The operator of docs/extending.md."""
    page = (REPOSITORY / "docs/extending.md").read_text()
    code = page[page.index('"""Tomography by deepinv."""') :]
    (tmp_path / "radon.py").write_text(code[: code.index("```")])
    settings = f"operator={{name: custom, file: {tmp_path}/radon.py, settings: {{angles: 10}}}}"
    trainer = tiny_trainer(tiny_prior, settings, "bridge.resize=pseudo_inverse")
    assert trainer.inputs.forward_model.operator.measurement_shape[-1] == 10
    losses = trainer.train_step(torch.rand(4, *IMAGE) * 2 - 1, 0)
    assert all(torch.isfinite(value) for value in losses.values())


def test_their_decompositions_are_checked_before_they_are_used() -> None:
    operator = operator_of(theirs.Inpainting(IMAGE, MASKS), IMAGE, svd=True)
    torch.testing.assert_close(operator.singular_values.float(), MASKS)
    for physics, message in (
        (theirs.BlurFFT(IMAGE, KERNEL), "does not broadcast"),
        (theirs.Decolorize(3), r"V_adjoint returns \(2, 1, 16, 16\)"),
    ):
        assert check_adjoint(operator_of(physics, IMAGE, svd=False)) < 1e-5
        with pytest.raises(InputError, match=message):
            operator_of(physics, IMAGE, svd=True)


@pytest.mark.parametrize("name", OURS)
def test_our_operators_pass_their_checks(name: str) -> None:
    operator = OURS[name]()
    physics = as_physics(operator)
    physics.load_state_dict(physics.clone().state_dict())  # writes into every buffer
    x = torch.rand(len(MASKS), *IMAGE)
    y = physics(x)
    assert physics.adjointness_test(x) < 1e-5
    basis = torch.eye(768).view(768, 1, *IMAGE).expand(-1, len(MASKS), -1, -1, -1)
    dense = torch.stack([operator.A(each)[0] for each in basis]).flatten(1)
    s_max = torch.linalg.matrix_norm(dense, 2).item()
    norm = physics.compute_norm(x, verbose=False, squared=False).item()
    assert norm == pytest.approx(s_max, rel=2e-2)
    torch.testing.assert_close(physics.A_A_adjoint(y), operator.A(operator.A_adjoint(y)))
    torch.testing.assert_close(physics.A_adjoint_A(x), operator.A_adjoint(operator.A(x)))
    torch.testing.assert_close(physics.A_dagger(y), operator.A_dagger(y))
    found, expected = physics.prox_l2(x, y, gamma=2.0), operator.proximal(x, y, rho=0.5)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("ours", [True, False])
def test_a_reconstructor_works_on_their_scale(ours: bool) -> None:
    """Block means of images in [0, 1] are repeated, whatever happens in between."""
    means = torch.full((1, 1, 4, 4), 1 / 16)
    physics = theirs.Downsampling(IMAGE, means, 4, padding="valid")
    if ours:
        physics = SVDPhysics(SuperResolution(IMAGE, 4))
    u = torch.rand(2, *IMAGE)
    found = Model(PseudoInverse(), isotropic_prior(), IMAGE)(physics(u), physics)
    expected = F.interpolate(F.avg_pool2d(u, 4), scale_factor=4)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("noise", [0.05, None])
def test_a_solver_gets_the_measurement_and_noise_of_our_scale(noise: float | None) -> None:
    operator, solver = SuperResolution(IMAGE, 4), DiffPIR(num_steps=5)
    model = theirs.GaussianNoise(noise) if noise else theirs.ZeroNoise()
    physics = SVDPhysics(operator, noise_model=model)
    x = 2 * torch.rand(2, *IMAGE) - 1
    y = physics((x + 1) / 2)
    rngs = [keyed_rng("cpu", 3, "deepinv", index) for index in range(2)]
    sigma = pytest.approx(2 * (noise or 0.0))
    assert (noise_of(physics).sigma_low, noise_of(physics).sigma_high) == (sigma, sigma)
    known = noise_of(physics)
    expected = solver(2 * y - 1, operator, known, isotropic_prior(), rngs)  # A 1 = 1
    found = Model(solver, isotropic_prior(), IMAGE, seed=3)(y, physics)
    torch.testing.assert_close(found, (expected + 1) / 2)


SOLVERS = [
    DDRM(num_steps=3),
    DDNMPlus(num_steps=3),
    DiffPIR(num_steps=3),
    FPS(num_steps=3),
    Pigdm(num_steps=3),
    Dps(num_steps=3, zeta=1.0),
    RedDiff(num_steps=3),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.label)
def test_every_solver_reconstructs(solver: object) -> None:
    model, noise = Model(solver, isotropic_prior(), IMAGE), theirs.GaussianNoise(0.05)
    for physics in (theirs.Inpainting(IMAGE, MASKS), SVDPhysics(Inpainting(IMAGE, MASKS))):
        physics.noise_model = noise
        y = physics(torch.rand(len(MASKS), *IMAGE))
        found = model(y, physics)
        assert found.shape == y.shape
        assert found.isfinite().all()


def test_noise_that_is_not_gaussian_is_refused() -> None:
    physics = theirs.Denoising(theirs.PoissonNoise(0.1))
    with pytest.raises(InputError, match="PoissonNoise: Gaussian noise, or none, is needed"):
        Model(DiffPIR(), isotropic_prior(), IMAGE)(torch.rand(1, *IMAGE), physics)


def test_a_trained_generator_is_a_reconstructor(tiny_prior: Path, tmp_path: Path) -> None:
    task = "operator={name: super_resolution, factor: 2}"
    restorer = load(write_tiny_generator(tmp_path / "g.safetensors", tiny_prior, task))
    means = torch.full((1, 1, 2, 2), 1 / 4)
    physics = theirs.Downsampling(IMAGE, means, 2, padding="valid")
    y = physics(torch.rand(2, *IMAGE))
    expected = restorer.restore(2 * y - 1, seed=5)[0]  # A 1 = 1
    found = Model(restorer, seed=5)(y, physics)
    torch.testing.assert_close(found, (expected + 1) / 2, atol=1e-5, rtol=0)
