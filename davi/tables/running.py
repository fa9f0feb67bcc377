"""Runs the restorations that a table lacks, dealt out to processes, and keeps each one."""

import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler
from tqdm import tqdm

from davi.benchmarks.measuring import machine, now
from davi.priors.weight_file import read_prior_file
from davi.schedule import Schedule
from davi.score import ScoreModel
from davi.solvers.blind import BlindSolver
from davi.solvers.prior import CountedPrior, Evaluations
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng
from davi.tables.plan import Job, Place
from davi.tables.work import Work
from guided_diffusion.errors import CheckpointError

REPORT_EVERY = 1.0  # seconds between two reports in the progress bar

Measure = Callable[[int], Tensor]  # position in the column -> measurement


@dataclass(frozen=True)
class Unit:
    """One call of a solver: a cell, and (position, sample) of the images in its batch."""

    place: Place
    items: list[tuple[int, int]]


class MissingNetwork(nn.Module):
    """Stands for a prior whose file is not there: methods that need none run without it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Refuses.

        Raises:
            InputError: always.
        """
        raise InputError(f"{self.path}: no such file (weights of the prior)")


def run_missing(work: Work) -> dict[Place, str]:
    """Runs what the cache lacks, and returns why cells could not be completed.

    First the scored images, then the further samples of the shown ones, or of all if a metric
    needs them: a method whose second sample is its first has no deviation and is not asked for a
    third.
    """
    runner = Runner(work)
    samples = work.plan.config.num_samples
    for first, last in ((0, 1), (1, min(2, samples)), (2, samples)):
        asked = range(first, last)
        # What one process finds missing, another may have finished by the time a second one looks.
        units = work.world.on_first(lambda asked=asked: _missing(work, asked, runner.failed))
        runner.run(units)
    return runner.failed


def _missing(work: Work, samples: range, failed: dict[Place, str]) -> list[Unit]:
    """The batches of what is missing, column by column, so that a column is measured once."""
    plan, units = work.plan, []
    for column in plan.problems if samples else ():
        for place, job in plan.jobs.items():
            if place[1] != column or place in failed:
                continue
            if samples.start > 1 and work.is_deterministic(place):
                continue
            needs_all = samples.start == 0 or plan.config.scores_samples
            count = job.num_images if needs_all else plan.num_examples
            wanted = ((position, sample) for sample in samples for position in range(count))
            missing = [item for item in wanted if work.restored(place, *item) is None]
            batches = BatchSampler(missing, plan.config.batch_size, drop_last=False)
            units += [Unit(place, batch) for batch in batches]
    return units


@cache
def place_of(device: torch.device) -> str:
    """Returns what a time in seconds belongs to."""
    facts = machine(device)
    if device.type == "cpu":
        return f"{facts['cpu']}, {facts['threads']} threads"
    return str(facts["device"])


@dataclass
class Runner:
    """The work of one process.

    Attributes:
        work: on the table.
        failed: why cells could not be completed, once all processes know.
        warm: cells whose solver has run in this process.
    """

    work: Work
    failed: dict[Place, str] = field(default_factory=dict)
    warm: set[Place] = field(default_factory=set)

    def run(self, units: list[Unit]) -> None:
        """Does this process's share of the units; all processes must call."""
        plan, world = self.work.plan, self.work.world
        mine = units[world.rank :: world.size]
        failed: dict[Place, str] = {}
        problem = measure = None
        with _Progress(
            total=sum(len(unit.items) for unit in mine),
            unit="image",
            disable=not (world.is_first and mine),
            miniters=0,
            mininterval=REPORT_EVERY,
        ) as progress:
            for unit in mine:
                if unit.place in failed:
                    continue
                job = plan.jobs[unit.place]
                if problem is not job.problem:
                    problem, measure = job.problem, cache(job.problem.measure)
                row = plan.rows[unit.place[0]]
                progress.set_description(f"{row}, {problem.label}", refresh=False)
                try:
                    if unit.place not in self.warm:
                        self._warm_up(job, unit, measure)
                        self.warm.add(unit.place)
                    self._solve(job, unit, measure, progress)
                except (InputError, CheckpointError) as error:
                    failed[unit.place] = str(error)
                progress.update(len(unit.items))
        for theirs in world.gather(failed):
            self.failed |= theirs

    def time(self, unit: Unit) -> float:
        """Returns the seconds that the solver takes for a batch; keeps nothing of it."""
        job = self.work.plan.jobs[unit.place]
        return self._restore(job, unit, job.problem.measure, Evaluations())[-1]

    def _warm_up(self, job: Job, unit: Unit, measure: Measure) -> None:
        """Runs a solver up to its first network evaluation, which loads weights and kernels."""

        def stop(count: int) -> None:
            raise _WarmError

        with contextlib.suppress(_WarmError):
            self._restore(job, unit, measure, Evaluations(stop))

    def _solve(self, job: Job, unit: Unit, measure: Measure, progress: "_Progress") -> None:
        evaluations = Evaluations(progress.evaluated)
        images, kernels, seconds = self._restore(job, unit, measure, evaluations)
        size, world = len(unit.items), self.work.world
        timed_on = f"{place_of(world.device)}, batch {size}, {world.size} processes"
        for item, image, kernel in zip(unit.items, images.cpu(), kernels, strict=True):
            self.work.cache.write(
                job.key(*item),
                image,
                kernel,
                forward=evaluations.forward / size,
                backward=evaluations.backward / size,
                seconds=seconds / size,
                timed_on=timed_on,
                facts={**job.facts, "image": job.problem.names[item[0]], "sample": item[1]},
            )

    def _restore(
        self, job: Job, unit: Unit, measure: Measure, evaluations: Evaluations
    ) -> tuple[Tensor, Sequence[Tensor | None], float]:
        """The restorations of a batch, the kernels of a blind method, the seconds of the call."""
        device, problem, config = self.work.world.device, job.problem, self.work.plan.config
        positions = [position for position, _ in unit.items]
        y = torch.stack([measure(position) for position in positions]).to(device)
        # A copy: measurements are made on the CPU, for every device the same.
        operator = copy.deepcopy(problem.operator_for(positions)).to(device)
        run, sha256 = problem.config, problem.facts["prior_sha256"]
        model = _read_prior(
            run.prior.path, sha256, run.network, run.schedule, config.precision, device
        )
        prior = CountedPrior(model, evaluations)
        rngs = [self._rng(problem.names[position], sample) for position, sample in unit.items]
        start = now(device)
        problem_and_tools = y, operator, problem.told_noise, prior, rngs
        if isinstance(job.solver, BlindSolver):
            images, found = job.solver.restore_with_kernel(*problem_and_tools)
            return images, found[:, 0], now(device) - start
        images = job.solver(*problem_and_tools)
        return images, [None] * len(images), now(device) - start

    def _rng(self, name: str, sample: int) -> torch.Generator:
        key = (self.work.plan.config.seed, "solve", name, *([sample] if sample else []))
        return keyed_rng(self.work.world.device, *key)


@cache
def _read_prior(
    path: Path,
    sha256: str | None,
    config: Any,
    schedule: str,
    precision: str,
    device: torch.device,
) -> ScoreModel:
    """The prior in a file of that content, read once."""
    network = MissingNetwork(path) if sha256 is None else read_prior_file(path, config).network()
    model = ScoreModel(network, Schedule.named(schedule), precision, prediction=config.prediction)
    return model.to(device)


class _WarmError(Exception):
    """A solver has made its first network evaluation."""


class _Progress(tqdm):
    """Shows images done and network evaluations made."""

    evaluations = 0

    def evaluated(self, count: int) -> None:
        """Adds network evaluations, and shows their number now and then."""
        self.evaluations += count
        self.set_postfix_str(f"{self.evaluations} evaluations", refresh=False)
        self.update(0)  # an update shows what is new if the last one was `mininterval` ago
