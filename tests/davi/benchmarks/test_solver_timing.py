"""How solvers are timed: with a clock that goes on as told, and for real with tiny networks."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from torch import Tensor, nn

from davi.benchmarks.solver_timing import BLOCK, Stopwatch, TimedProblem, TimingConfig, time_solvers
from davi.config.schema import RunConfig
from davi.config.yaml_file import load_config
from davi.operators.denoising import Denoising
from davi.operators.measurement import ForwardModel
from davi.operators.noise import GaussianNoise
from davi.schedule import Schedule
from davi.score import ScoreModel
from davi.solvers.base import Solver
from tests.conftest import BLIND, CLASSICAL, REPOSITORY
from tests.tiny import write_tiny_generator

IMAGE = (3, 8, 8)
CPU = torch.device("cpu")
FORWARD, BACKWARD, HARNESS = 1.0, 2.0, 0.25  # seconds


class Clock:
    """Goes on when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time itself."""
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    return clock


class Slow(nn.Module):
    """A network that takes its time, forward for each image and backward."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.clock.now += FORWARD * len(x_t)
        output = x_t / 2
        if output.requires_grad:
            output.register_hook(self.back)
        return output

    def back(self, gradient: Tensor) -> None:
        self.clock.now += BACKWARD * len(gradient)


class Loop(Solver):
    """Evaluates the prior, with its own work between."""

    label: ClassVar[str] = "loop"
    clock: Any
    steps: int
    particles: int = 1
    gradients: int = 0  # in so many of the steps

    def solve(self, y: Tensor, operator: Any, noise: Any, prior: Any, rngs: Any) -> Tensor:
        x = torch.zeros(self.particles, *IMAGE)
        for step in range(self.steps):
            self.clock.now += HARNESS
            with torch.set_grad_enabled(step < self.gradients):
                tracked = x.clone().requires_grad_(step < self.gradients)
                x0 = prior.predict(tracked, 500).x0
                if step < self.gradients:
                    torch.autograd.grad(x0.sum(), tracked)
        return x


def problem(clock: Clock) -> TimedProblem:
    prior = ScoreModel(Slow(clock), Schedule.named("linear"))
    model = ForwardModel(Denoising(IMAGE), GaussianNoise(0.1, 0.1))
    return TimedProblem(prior, model, "denoising", torch.zeros(1, *IMAGE), None)


@pytest.mark.parametrize("steps", [1, 3, 10, 35])
@pytest.mark.parametrize("particles", [1, 5])
def test_the_clock_of_the_solver_leaves_the_bare_evaluations_out(
    clock: Clock, steps: int, particles: int
) -> None:
    solver = Loop(clock=clock, steps=steps, particles=particles)
    watch = problem(clock).time(solver, calls=2)
    assert (watch.forward, watch.backward) == (2 * steps * particles, 0)
    assert watch.seconds == pytest.approx(2 * steps * (FORWARD * particles + HARNESS))
    assert watch.bare_seconds() == pytest.approx(2 * steps * particles * FORWARD)


@pytest.mark.parametrize(("steps", "gradients"), [(1, 1), (30, 30), (30, 7), (30, 0)])
def test_a_gradient_is_compared_with_a_gradient(clock: Clock, steps: int, gradients: int) -> None:
    watch = problem(clock).time(Loop(clock=clock, steps=steps, gradients=gradients), calls=1)
    assert (watch.forward, watch.backward) == (steps, gradients)
    expected = steps * FORWARD + gradients * BACKWARD
    assert watch.seconds == pytest.approx(expected + steps * HARNESS)
    assert watch.bare_seconds() == pytest.approx(expected)


@pytest.mark.parametrize("with_gradient", [False, True])
def test_both_see_the_same_machine(clock: Clock, with_gradient: bool) -> None:
    """One that becomes three times as slow halfway does not look like overhead."""
    slow = Slow(clock)
    watch = Stopwatch(slow, IMAGE, CPU)
    x = torch.zeros(1, *IMAGE, requires_grad=with_gradient)
    with watch.running():
        for step in range(10 * BLOCK):
            if step == 5 * BLOCK:
                slow.forward = lambda x, t: Slow.forward(slow, x.repeat(3, 1, 1, 1), t)[:1]
            output = slow(x, torch.zeros(1))
            watch.count(output)
            if with_gradient:
                torch.autograd.grad(output.sum(), x)
    seconds = FORWARD + BACKWARD * with_gradient
    assert watch.seconds == pytest.approx(5 * BLOCK * (1 + 3) * seconds)
    assert watch.bare_seconds() == pytest.approx(watch.seconds, rel=0.01)


def test_a_network_of_the_solvers_own_is_what_it_is_compared_with(clock: Clock) -> None:
    own, other = Slow(clock), Clock()
    watch = Stopwatch(Slow(other), IMAGE, CPU)
    with watch.running(), watch.watching(own):
        for _ in range(2 * BLOCK):
            own(torch.zeros(1, *IMAGE), torch.zeros(1))
    assert watch.forward == 2 * BLOCK  # the bare ones do not count
    assert watch.seconds == watch.bare_seconds() == 2 * BLOCK * FORWARD
    assert other.now == 0


GREEDY = """
import torch
from typing import ClassVar
from davi.solvers.base import GRADIENT, Solver


class Greedy(Solver):
    label: ClassVar[str] = "greedy"
    needs: ClassVar[frozenset[str]] = frozenset({GRADIENT})
    steps: int = 3

    def solve(self, y, operator, noise, prior, rngs):
        x = operator.A_adjoint(y)
        for t in range(self.steps):
            with torch.enable_grad():
                x_t = x.clone().requires_grad_()
                loss = (operator.A(prior.predict(x_t, t).x0) - y).square().sum()
                x = x - 0.01 * torch.autograd.grad(loss, x_t)[0]
        return x
"""


@pytest.fixture
def listed(tmp_path: Path, tiny_prior: Path) -> Path:
    """A list of solvers that are there, are not, and cannot."""
    generator = write_tiny_generator(tmp_path / "generator.safetensors", tiny_prior)
    (tmp_path / "greedy.py").write_text(GREEDY)
    (tmp_path / "greedy.yaml").write_text("solver: greedy.py")
    run = {"extends": str(REPOSITORY / "configs/tiny.yaml"), "prior": {"checkpoint": "x"}}
    run["prior"]["checkpoint"] = str(tiny_prior)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    shipped = REPOSITORY / "configs/solvers"
    solvers = [
        {"solver": f"{shipped}/davi.yaml", "set": {"checkpoint": str(generator)}},
        {"solver": f"{shipped}/measurement.yaml"},
        {"solver": "greedy.yaml", "set": {"steps": 5}, "note": "fewer than it wants"},
        {"solver": "nowhere/ddrm.yaml"},
        {"solver": "greedy.yaml", "set": {"stops": 5}},
    ]
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump({"run": "run.yaml", "solvers": solvers}))
    return path


def test_a_list_is_measured_and_nothing_is_left_out(
    script: object, listed: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    options = ("--evaluations", 10, "--device", "cpu", "--output", report)
    code, output = script("benchmark", "solvers", listed, *options)
    assert code == 0, output
    davi, measurement, greedy, ddrm, mistyped = json.loads(report.read_text())["rows"]
    assert (davi["method"], davi["forward"], davi["backward"], davi["ratio"]) == ("DAVI", 1, 0, 1)
    assert (greedy["method"], greedy["forward"], greedy["backward"]) == ("greedy", 5, 5)
    assert greedy["overhead"] == pytest.approx(greedy["seconds"] / greedy["bare_seconds"] - 1)
    assert greedy["ratio"] == pytest.approx(greedy["seconds"] / davi["seconds"])
    assert greedy["note"] == "fewer than it wants"
    assert (measurement["forward"], measurement["overhead"]) == (0, None)
    assert ddrm["seconds"] is mistyped["seconds"] is None
    assert "nowhere/ddrm.yaml does not exist" in ddrm["note"]
    assert "unknown key 'stops'" in mistyped["note"]
    assert report.with_suffix(".md").read_text() in output
    assert all(f"| {row['method']} |" in output for row in (davi, greedy, ddrm))


def test_another_preset_has_random_weights(listed: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(listed.read_text())
    values["solvers"] = values["solvers"][:1]
    listed.write_text(yaml.safe_dump(values))
    run = listed.with_name("run.yaml")
    run.write_text(run.read_text() + "network: {preset: ffhq_256}\n")
    (found,) = time_solvers(listed, "photos_64", "fp32", CPU, 1, tmp_path)
    assert (found.method, found.forward) == ("DAVI", 1)


def test_the_shipped_list_names_what_the_paper_compares() -> None:
    path = REPOSITORY / "configs/benchmarks/solvers.yaml"
    config = load_config(path, TimingConfig)
    assert load_config(path.parent / config.run, RunConfig).network.preset == "photos_64"
    steps = {Path(row.solver).stem: row.set.get("num_steps") for row in config.solvers}
    assert next(iter(steps)) == "davi"
    assert steps["ddrm"] == 20
    assert all(steps[name] == 1000 for name in ("dps", "red_diff", "fps"))
    shipped = {path.stem for path in (REPOSITORY / "configs/solvers").glob("*.yaml")}
    others = {"measurement", "pseudo_inverse", "davi_posterior"}  # the last one is davi again
    others |= {"exact_denoising"}  # it only denoises
    assert shipped - others - CLASSICAL - BLIND <= set(steps)
