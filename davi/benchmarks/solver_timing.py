"""What solvers take for one image, and how much of it is more than the network evaluations."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from tqdm import tqdm

from davi.benchmarks.ladders import benchmark_config, random_network
from davi.benchmarks.measuring import cells, markdown_table, now
from davi.build import build_forward_model, image_shape
from davi.config.schema import RunConfig
from davi.config.section import FilePath, Section
from davi.config.yaml_file import load_config
from davi.data.batches import open_images
from davi.operators.measurement import ForwardModel
from davi.priors.weight_file import read_prior_file
from davi.schedule import NUM_STEPS, Schedule
from davi.score import ScoreModel
from davi.solvers.base import GRADIENT, Solver
from davi.solvers.davi import Davi
from davi.solvers.prior import CountedPrior, Evaluations
from davi.solvers.solver_list import ListedSolver
from davi.system.errors import InputError
from davi.system.runtime import autocast, keyed_rng
from davi.weights.network_file import GENERATOR, save_weights
from guided_diffusion.errors import CheckpointError

BLOCK = 5  # evaluations between two looks at the bare network
COLUMNS = (
    "method",
    "evaluations",
    "of them with gradient",
    "seconds per image",
    "bare evaluations [s]",
    "overhead",
    "times the first",
    "note",
)
NOTES = """\
One image at a time. Bare: as many evaluations of the same network, forward, or forward and backward
where the method takes a gradient. They are timed in turns with the method, 5 by 5, so that both
see the same machine. Overhead: what the method takes beyond them.
"""


class TimingConfig(Section):
    """What a file of configs/benchmarks/ says.

    Attributes:
        run: YAML of a run, relative to this file: gives network, prior, operator and noise.
        solvers: the first is what the others are compared with.
    """

    run: FilePath
    solvers: tuple[ListedSolver, ...] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True)
class SolverTime:
    """What one method takes for one image; nothing but a note if it could not be measured.

    Attributes:
        method: its name in tables.
        forward, backward: evaluations of a network, and how many of them with gradient.
        seconds: of the method.
        bare_seconds: of as many evaluations of the network alone.
        overhead: of the method over them, as a share; None if it evaluates no network.
        ratio: of the seconds to those of the first row.
        note: whatever there is to say.
    """

    method: str
    forward: float | None = None
    backward: float | None = None
    seconds: float | None = None
    bare_seconds: float | None = None
    overhead: float | None = None
    ratio: float | None = None
    note: str = ""


class Stopwatch(Evaluations):
    """Times a solver, and in turns with it the network that it evaluates.

    Args:
        bare: evaluates the solver's prior, images (B, C, H, W) and times (B,) to any tensor.
        image_shape: (C, H, W).
        device: where.

    Attributes:
        seconds: of the solver so far.
    """

    def __init__(
        self,
        bare: Callable[[Tensor, Tensor], Tensor],
        image_shape: tuple[int, int, int],
        device: torch.device,
    ) -> None:
        super().__init__()
        self.bare, self.image_shape, self.device = bare, image_shape, device
        self.seconds = self._start = 0.0
        self._calls = 0
        self._batch_size = 1
        self._blocks: dict[bool, list[float]] = {False: [], True: []}  # with gradient: seconds

    def count(self, output: Tensor) -> None:
        """Counts, see `Evaluations`; every 5 calls the solver's clock stops for the network."""
        super().count(output)
        self._calls, self._batch_size = self._calls + 1, len(output)
        if self._calls % BLOCK == 0:
            self.seconds += now(self.device) - self._start
            self._time_block(with_gradient=self.backward > 0)
            self._start = now(self.device)

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Counts the evaluations of another network, which is then the one to compare with."""
        self.bare = network.forward  # without the hook that counts
        with super().watching(network):
            yield

    @contextmanager
    def running(self) -> Iterator[None]:
        """Lets the solver's clock run."""
        self._start = now(self.device)
        yield
        self.seconds += now(self.device) - self._start

    def bare_seconds(self) -> float:
        """Returns how long the network alone takes for all that was counted."""
        counts, total = {False: self.forward - self.backward, True: self.backward}, 0.0
        for with_gradient, count in counts.items():
            if count and not self._blocks[with_gradient]:
                self._time_block(with_gradient)
            if count:
                total += count * fmean(self._blocks[with_gradient])
        return total

    def _time_block(self, with_gradient: bool) -> None:
        """Notes the seconds that an image takes."""
        start = now(self.device)
        self.evaluate_bare(with_gradient, BLOCK)
        seconds = now(self.device) - start
        self._blocks[with_gradient].append(seconds / BLOCK / self._batch_size)

    def evaluate_bare(self, with_gradient: bool, count: int) -> None:
        """Evaluates the network alone, so many times."""
        x = torch.randn(
            self._batch_size, *self.image_shape, device=self.device, dtype=torch.float32
        )
        t = torch.full((self._batch_size,), NUM_STEPS // 2, device=self.device)
        with torch.set_grad_enabled(with_gradient):
            x.requires_grad_(with_gradient)
            for _ in range(count):
                output = self.bare(x, t)
                if with_gradient:
                    torch.autograd.grad(output.sum(), x)


@dataclass(frozen=True)
class TimedProblem:
    """What all methods solve: one measured photograph, with one prior.

    Attributes:
        prior: s_theta, on its device.
        forward_model: operator and noise.
        task: name of the inverse problem.
        y: (1, *measurement_shape).
        generator: for DAVI, instead of that of its YAML; None to keep it.
    """

    prior: ScoreModel
    forward_model: ForwardModel
    task: str
    y: Tensor
    generator: Path | None

    def time(self, solver: Solver, calls: int) -> Stopwatch:
        """Returns a stopwatch that has seen the solver at work so many times."""
        device, model = self.y.device, self.forward_model
        watch = Stopwatch(self.evaluate, model.operator.image_shape, device)
        prior = CountedPrior(self.prior, watch)
        watch.evaluate_bare(GRADIENT in solver.needs, 1)  # libraries set themselves up first
        for _ in range(calls):
            with watch.running():
                rngs = [keyed_rng(device, 0, "solver")]
                solver(self.y, model.operator, model.noise, prior, rngs)
        return watch

    def evaluate(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Returns what the network says, as the prior runs it but without anything else."""
        with autocast(x_t.device, self.prior.precision):
            return self.prior.network(x_t, t)


def timed_problem(
    run: RunConfig, preset: str, precision: str, device: torch.device, workspace: Path
) -> TimedProblem:
    """Returns the problem of a run, or 4x super-resolution with random weights if `preset` differs.

    Raises:
        InputError, CheckpointError: the weights of the prior are missing or do not fit.
    """
    generator = None
    if preset == getattr(run.network, "preset", None):
        network = read_prior_file(run.prior.path, run.network).network()
    else:
        run = benchmark_config(preset, 1)
        network = random_network(run.network.unet())
        generator = workspace / "generator.safetensors"
        save_weights(
            generator,
            network.state_dict(),
            kind=GENERATOR,
            config=run.model_dump(mode="json"),
            iteration=None,
            dtype="float32",
        )
    shape = image_shape(run)
    photograph = open_images("photos:held_out", 64)[0][None]
    x0 = F.interpolate(photograph, size=shape[1:], mode="bilinear").to(device)
    forward_model = build_forward_model(run, shape, device)
    y, operator = forward_model.measure(x0, [keyed_rng(device, 0, "noise")])
    prior = ScoreModel(
        network, Schedule.named(run.schedule), precision, prediction=run.network.prediction
    ).to(device)
    prior.eval().requires_grad_(False)
    return TimedProblem(prior, ForwardModel(operator, forward_model.noise), run.task, y, generator)


def time_solvers(
    path: Path, preset: str, precision: str, device: torch.device, evaluations: int, workspace: Path
) -> list[SolverTime]:
    """Measures one solver after the other.

    Args:
        path: of a TimingConfig.
        preset: network; if it is not that of the run, its weights are random.
        precision: of all networks.
        device: where to run.
        evaluations: of each solver at least; one that makes fewer solves several times.
        workspace: an empty folder.

    Returns:
        One for each solver of the file; what is not there or cannot solve it has only a note.

    Raises:
        InputError, CheckpointError: as `load_config`, `timed_problem`.
    """
    config = load_config(path, TimingConfig)
    run = load_config(path.parent / config.run, RunConfig)
    problem = timed_problem(run, preset, precision, device, workspace)
    found: list[SolverTime] = []
    for row in tqdm(config.solvers, desc="measuring", unit="solver"):
        first = found[0].seconds if found else None
        found.append(_time_row(row, path.parent, problem, evaluations, first))
    return found


def _time_row(
    row: ListedSolver, folder: Path, problem: TimedProblem, evaluations: int, first: float | None
) -> SolverTime:
    try:
        solver = row.read(folder, problem.task)
        if isinstance(solver, Davi) and problem.generator is not None:
            solver = solver.model_copy(update={"checkpoint": str(problem.generator)})
        watch, calls = _watched(solver, problem, evaluations)
    except (InputError, CheckpointError) as error:
        return SolverTime(method=row.name, note=f"absent: {error}")
    seconds, bare_seconds = watch.seconds / calls, watch.bare_seconds() / calls
    return SolverTime(
        method=solver.label,
        forward=watch.forward / calls,
        backward=watch.backward / calls,
        seconds=seconds,
        bare_seconds=bare_seconds,
        overhead=seconds / bare_seconds - 1 if bare_seconds else None,
        ratio=seconds / (first or seconds),
        note=row.note,
    )


def _watched(solver: Solver, problem: TimedProblem, evaluations: int) -> tuple[Stopwatch, int]:
    """A stopwatch that has seen the solver, and how often it has solved.

    The first time warms up, unless it is long enough to be all there is.
    """
    watch = problem.time(solver, calls=1)
    if watch.forward >= evaluations:
        return watch, 1
    calls = math.ceil(evaluations / max(watch.forward, 1))
    return problem.time(solver, calls), calls


def solver_table(found: list[SolverTime]) -> str:
    """Returns a Markdown table, above what it means."""
    rows = [
        [
            each.method,
            *cells("{:.4g}", each.forward, each.backward, each.seconds, each.bare_seconds),
            *cells("{:.1%}", each.overhead),
            *cells("{:.1f}", each.ratio),
            each.note,
        ]
        for each in found
    ]
    return f"{markdown_table(COLUMNS, rows)}\n{NOTES}"
