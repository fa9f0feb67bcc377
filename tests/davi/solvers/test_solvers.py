"""What all solvers share: their signature, counting, demands, files, and the exact posterior."""

from itertools import product
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from davi.benchmarks.gaussian_posterior import (
    draw_samples,
    gaussian_problem,
    posterior_distance,
    smooth_covariance,
)
from davi.operators.denoising import Denoising
from davi.operators.gaussian_blur import GaussianBlur
from davi.operators.linear import LinearOperator
from davi.operators.noise import ClippedNoise, GaussianNoise, PoissonNoise
from davi.operators.super_resolution import SuperResolution
from davi.schedule import Schedule
from davi.score import ScoreModel
from davi.solvers.base import NOISE_LEVEL, SVD, Noise, Solver
from davi.solvers.davi import Davi, load_generator
from davi.solvers.grids import steps_of, stride_times
from davi.solvers.lifted import Lifted
from davi.solvers.prior import CLEAN, CountedPrior, Evaluations
from davi.solvers.pseudo_inverse import PseudoInverse
from davi.solvers.solver_file import read_solver, solver_class, solver_names
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng, normal_each
from tests.conftest import REPOSITORY
from tests.tiny import write_tiny_generator, write_tiny_prior

IMAGE = (3, 8, 8)
CPU = torch.device("cpu")


class Half(nn.Module):
    """Predicts half of its input as noise, and a third of it as variance."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return torch.cat([self.factor * x_t, x_t / 3], dim=1)


class Constant(Solver):
    """Returns one value everywhere."""

    label: ClassVar[str] = "constant"
    needs: ClassVar[frozenset[str]] = frozenset({NOISE_LEVEL, SVD})
    value: float = 0.0

    def solve(
        self,
        y: Tensor,
        operator: LinearOperator,
        noise: Noise,
        prior: CountedPrior,
        rngs: list[torch.Generator],
    ) -> Tensor:
        return torch.full((len(y), *operator.image_shape), self.value)


class Blind(LinearOperator):
    """An operator that knows only A and its adjoint."""

    def A(self, x: Tensor) -> Tensor:
        return 2 * x

    def A_adjoint(self, y: Tensor) -> Tensor:
        return 2 * y


def a_prior() -> CountedPrior:
    return CountedPrior(ScoreModel(Half(), Schedule.named("linear")))


def rngs_for(count: int) -> list[torch.Generator]:
    return [keyed_rng("cpu", 0, index) for index in range(count)]


def run(solver: Solver, operator: LinearOperator, noise: Noise, batch: int = 2) -> Tensor:
    y = torch.zeros(batch, *operator.measurement_shape)
    return solver(y, operator, noise, a_prior(), rngs_for(batch))


def test_a_prediction_is_tweedies_formula() -> None:
    prior, x_t = a_prior(), torch.randn(2, *IMAGE)
    prediction = prior.predict(x_t, 500)
    alpha_bar = Schedule.named("linear").alpha_bar[500].item()
    torch.testing.assert_close(prediction.eps, x_t / 2)
    torch.testing.assert_close(prediction.variance, x_t / 3)
    expected = (x_t - (1 - alpha_bar) ** 0.5 * x_t / 2) / alpha_bar**0.5
    torch.testing.assert_close(prediction.x0, expected)
    assert prior.alpha_bar(CLEAN) == 1
    assert prior.sigma(CLEAN) == 0
    assert prior.sigma(0) == pytest.approx(0.01, rel=1e-3)
    assert prior.sigma(999) == pytest.approx(157.4, rel=1e-3)


def test_evaluations_are_counted_image_by_image_and_gradients_apart() -> None:
    told = []
    prior = CountedPrior(a_prior().model, Evaluations(told.append))
    x_t = torch.randn(4, *IMAGE)
    prior.predict(x_t, 3)
    with torch.enable_grad():
        tracked = x_t.clone().requires_grad_(True)
        torch.autograd.grad(prior.predict(tracked, 3).x0.sum(), tracked)
        torch.autograd.grad((prior.predict(tracked, 3).eps ** 2).sum(), tracked)
        prior.predict(tracked, 3)  # without a backward pass
    assert (prior.evaluations.forward, prior.evaluations.backward) == (16, 8)
    assert told == [4, 4, 4, 4]
    assert not any(weight.requires_grad for weight in prior.model.parameters())


def test_evaluations_of_another_network_count_while_it_is_watched() -> None:
    evaluations, network = Evaluations(), nn.Conv2d(3, 3, 1)
    with evaluations.watching(network):
        network(torch.zeros(5, *IMAGE))
    network(torch.zeros(5, *IMAGE))
    assert evaluations.forward == 5


def test_stride_times_fall_to_zero() -> None:
    for num_steps in (1, 3, 20, 100, 1000):
        times = stride_times(num_steps)
        assert len(times) == num_steps
        assert times[-1] == 0
        assert times == sorted(times, reverse=True)
        assert steps_of(times)[-1] == (0, CLEAN)
        assert [t for t, _ in steps_of(times)] == times


def test_stride_times_of_twenty_steps_start_at_950() -> None:
    assert stride_times(20)[:2] == [950, 900]


@pytest.mark.parametrize(
    ("operator", "noise", "lacking"),
    [
        (Denoising(IMAGE), PoissonNoise(1.0), "one known sigma"),
        (Denoising(IMAGE), GaussianNoise(0.1, 0.3), "one known sigma"),
        (Denoising(IMAGE), ClippedNoise(GaussianNoise(0.1, 0.1)), "one known sigma"),
        (Blind(IMAGE, IMAGE), GaussianNoise(0.1, 0.1), "singular value"),
    ],
)
def test_a_solver_refuses_what_it_cannot_do(
    operator: LinearOperator, noise: Noise, lacking: str
) -> None:
    with pytest.raises(InputError, match=lacking):
        run(Constant(), operator, noise)


def test_a_result_that_is_not_finite_is_refused() -> None:
    problem = Denoising(IMAGE), GaussianNoise(0.1, 0.1)
    assert run(Constant(value=0.5), *problem).mean() == 0.5
    Broken = type("Broken", (Constant,), {"solve": lambda *_: torch.tensor([torch.nan])})
    with pytest.raises(InputError, match="NaN"):
        run(Broken(), *problem)


def test_the_two_rows_without_a_network() -> None:
    operator, noise = SuperResolution(IMAGE, 4), GaussianNoise(0.0, 0.0)
    y = torch.randn(2, 3, 2, 2)
    blocks = y.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    found = PseudoInverse()(y, operator, noise, a_prior(), rngs_for(2))
    torch.testing.assert_close(found, blocks)
    nearest = Lifted(resize="nearest")(y, operator, noise, a_prior(), rngs_for(2))
    torch.testing.assert_close(nearest, blocks)


def test_davi_as_a_solver_is_algorithm_2(tmp_path: Path) -> None:
    prior_file = write_tiny_prior(tmp_path / "prior.safetensors")
    path = write_tiny_generator(tmp_path / "generator.safetensors", prior_file)
    solver = Davi(checkpoint=str(path))
    prior = a_prior()
    import davi

    restorer = davi.load(path, "cpu")
    y = torch.rand(2, *restorer.measurement_shape) - 0.5
    rngs = [keyed_rng("cpu", 7, "restore", name, 0) for name in "ab"]
    found = solver(y, restorer.operator, GaussianNoise(0.1, 0.1), prior, rngs)
    expected = restorer.restore(y, seed=7, names=["a", "b"])[0]
    torch.testing.assert_close(found.clamp(-1, 1), expected)
    assert (prior.evaluations.forward, prior.evaluations.backward) == (2, 0)
    from_y = Davi(checkpoint=str(path), h=0.0)
    restorer.bridge.endpoint_scale = 0.0
    without_noise = restorer.restore(y)[0]
    found = from_y(y, restorer.operator, GaussianNoise(0.1, 0.1), prior, rngs)
    torch.testing.assert_close(found.clamp(-1, 1), without_noise)
    assert (without_noise - expected).abs().max() > 1e-3
    other = Denoising((3, 16, 16))
    with pytest.raises(InputError, match="restores"):
        solver(torch.zeros(1, 3, 16, 16), other, GaussianNoise(0.1, 0.1), prior, rngs[:1])


def test_davi_restores_images_of_another_size_if_that_is_said(tmp_path: Path) -> None:
    prior_file = write_tiny_prior(tmp_path / "prior.safetensors")
    path = write_tiny_generator(tmp_path / "generator.safetensors", prior_file)
    import davi

    restorer = davi.load(path, "cpu", size=(32, 32))
    y = torch.rand(1, *restorer.measurement_shape) - 0.5
    problem = (y, restorer.operator, GaussianNoise(0.1, 0.1), a_prior())
    rngs = [keyed_rng("cpu", 7, "restore", "a", 0)]
    found = Davi(checkpoint=str(path), size=32)(*problem, rngs)
    expected = restorer.restore(y, seed=7, names=["a"])[0]
    torch.testing.assert_close(found.clamp(-1, 1), expected)
    with pytest.raises(InputError, match="set size"):
        Davi(checkpoint=str(path))(*problem, rngs)


def test_davi_averages_samples_of_further_evaluations(tmp_path: Path) -> None:
    prior_file = write_tiny_prior(tmp_path / "prior.safetensors")
    path = str(write_tiny_generator(tmp_path / "generator.safetensors", prior_file))
    restorer = load_generator(path, "cpu", "fp32")
    y, prior = torch.rand(1, *restorer.measurement_shape) - 0.5, a_prior()
    problem = (y, restorer.operator, GaussianNoise(0.1, 0.1), prior)
    rngs = [keyed_rng("cpu", 7)]
    samples = [Davi(checkpoint=path)(*problem, rngs) for _ in range(3)]
    found = Davi(checkpoint=path, mean_of=3)(*problem, [keyed_rng("cpu", 7)])
    torch.testing.assert_close(found, torch.stack(samples).mean(dim=0))
    assert prior.evaluations.forward == 6


def test_hyperparameters_come_from_general_to_special(tmp_path: Path) -> None:
    path = tmp_path / "method.yaml"
    path.write_text(
        "solver: lifted\nhyperparameters: {resize: bilinear}\n"
        "data_sets: {photos: {any: {resize: nearest}, denoising: {resize: bilinear}}}\n"
    )
    assert read_solver(path, "ffhq", "inpainting").resize == "bilinear"
    assert read_solver(path, "photos", "inpainting").resize == "nearest"
    assert read_solver(path, "photos", "denoising").resize == "bilinear"
    assert read_solver(path, "photos", "denoising", {"resize": "nearest"}).resize == "nearest"
    with pytest.raises(InputError, match=r"method.yaml .*resize"):
        read_solver(path, "photos", "denoising", {"resize": "cubic"})
    with pytest.raises(InputError, match="unknown key 'reside', did you mean 'resize'"):
        read_solver(path, "photos", "denoising", {"reside": "nearest"})


def test_a_solver_may_live_in_any_python_file(tmp_path: Path) -> None:
    shipped = (REPOSITORY / "davi/solvers/lifted.py").read_text()
    (tmp_path / "mine.py").write_text(shipped.replace("bilinear", "nearest", 2))
    assert solver_class("mine.py", tmp_path).__name__ == "Lifted"
    with pytest.raises(InputError, match="no such file"):
        solver_class("yours.py", tmp_path)
    with pytest.raises(InputError, match=r"'ddrn': unknown; allowed: .*davi.*lifted"):
        solver_class("ddrn")
    with pytest.raises(InputError, match="one public subclass of Solver needed, 0 found"):
        solver_class("grids")


SHIPPED = sorted((REPOSITORY / "configs/solvers").glob("*.yaml"))


def test_every_shipped_solver_file_is_valid() -> None:
    for path, data_set in product(SHIPPED, ("photos", "ffhq", "imagenet")):
        for task in (
            "gaussian_blur",
            "super_resolution",
            "inpainting",
            "denoising",
            "colorization",
        ):
            try:
                assert isinstance(read_solver(path, data_set, task), Solver)
            except InputError as error:  # only a trained network may be missing
                assert "key 'checkpoint' is missing" in str(error)
                assert data_set != "photos"


def test_every_method_has_a_file() -> None:
    used = {read_text.split("solver: ")[1].split()[0] for read_text in map(Path.read_text, SHIPPED)}
    assert used == set(solver_names())


class ExactPosterior(Solver):
    """Draws from the closed form: what the distance of a perfect solver looks like."""

    label: ClassVar[str] = "exact"
    mean: list[float]
    factor: list[list[float]]

    def solve(
        self,
        y: Tensor,
        operator: LinearOperator,
        noise: Noise,
        prior: CountedPrior,
        rngs: list[torch.Generator],
    ) -> Tensor:
        z = normal_each((len(self.mean),), rngs).double()
        x = torch.tensor(self.mean).double() + z @ torch.tensor(self.factor).double().T
        return x.view(len(y), *operator.image_shape)


def test_exact_samples_have_no_distance_from_the_posterior() -> None:
    operator = GaussianBlur((1, 4, 4), 5, 1.0)
    problem = gaussian_problem(operator, 0.1, smooth_covariance((1, 4, 4)))
    factor = torch.linalg.cholesky(problem.covariance)
    solver = ExactPosterior(mean=problem.mean.tolist(), factor=factor.tolist())
    distance = posterior_distance(draw_samples(solver, problem, 4000), problem)
    assert distance.mean_error < 0.05
    assert distance.gain == pytest.approx(1, abs=0.01)
    assert distance.spread == pytest.approx(1, abs=0.02)
    assert distance.covariance_error < 0.1


def test_the_closed_form_is_what_conditioning_gives() -> None:
    """Against the textbook formula for jointly Gaussian x and y, another route to m and P."""
    operator = SuperResolution((1, 4, 4), 2)
    C = smooth_covariance((1, 4, 4))
    problem = gaussian_problem(operator, 0.3, C)
    A = torch.stack([operator.A(e.view(1, 1, 4, 4)).flatten() for e in torch.eye(16).double()], 1)
    gain = C @ A.T @ torch.linalg.inv(A @ C @ A.T + 0.3**2 * torch.eye(4).double())
    torch.testing.assert_close(problem.mean, gain @ problem.y.flatten())
    torch.testing.assert_close(problem.covariance, C - gain @ A @ C)
