"""Runs the restorations that a table lacks, dealt out to processes, and keeps each one."""

import contextlib
import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from davi.benchmarks.measuring import machine, now
from davi.priors.weight_file import read_prior_file
from davi.schedule import Schedule
from davi.score import ScoreModel
from davi.solvers.prior import CountedPrior, Evaluations
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng
from davi.system.world import World
from davi.tables.cache import Cache
from davi.tables.plan import Job, Place, Plan
from davi.tables.problem import Problem
from guided_diffusion.errors import CheckpointError

REPORT_EVERY = 1.0  # seconds between two reports of evaluations in the progress bar


@dataclass(frozen=True)
class Unit:
    """One call of a solver: a cell, and (position, sample) of the images in its batch."""

    place: Place
    items: tuple[tuple[int, int], ...]


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


def run_missing(plan: Plan, cache: Cache, world: World) -> dict[Place, str]:
    """Runs what the cache lacks, and returns why cells could not be completed.

    First the scored images, then the further samples of the shown ones: a method whose second
    sample is its first has no deviation and is not asked for a third.

    Args:
        plan: the table.
        cache: where restorations are kept.
        world: the processes; all must call.
    """
    runner = Runner(plan, cache, world)
    samples = plan.config.num_samples
    for first, last in ((0, 1), (1, min(2, samples)), (2, samples)):
        asked = range(first, last)
        # What one process finds missing, another may have finished by the time a second one looks.
        units = world.on_first(lambda asked=asked: _missing(plan, cache, asked, runner.failed))
        runner.run(units)
    return runner.failed


def is_deterministic(plan: Plan, cache: Cache, place: Place) -> bool:
    """Returns whether the second samples of all shown images are there and equal the first."""
    job, pairs = plan.jobs[place], []
    for position in range(plan.num_examples):
        pairs.append([cache.read(job.key(position, sample)) for sample in (0, 1)])
    return all(b is not None and a and a.picture_sha256 == b.picture_sha256 for a, b in pairs)


def _missing(plan: Plan, cache: Cache, samples: range, failed: dict[Place, str]) -> list[Unit]:
    """The batches of what is missing, column by column, so that a column is measured once."""
    units: list[Unit] = []
    for column in plan.problems if samples else ():
        for place, job in plan.jobs.items():
            if place[1] != column or place in failed:
                continue
            if samples.start > 1 and is_deterministic(plan, cache, place):
                continue
            count = job.num_images if samples.start == 0 else plan.num_examples
            wanted = ((position, sample) for sample in samples for position in range(count))
            missing = [item for item in wanted if cache.read(job.key(*item)) is None]
            units += [Unit(place, batch) for batch in in_batches(missing, plan.config.batch_size)]
    return units


def in_batches(items: list[Any], size: int) -> Iterator[tuple[Any, ...]]:
    """Yields the items, `size` at a time."""
    for start in range(0, len(items), size):
        yield tuple(items[start : start + size])


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
        plan: the table.
        cache: where restorations are kept.
        world: the processes.
        failed: why cells could not be completed, once all processes know.
        warm: cells whose solver has run in this process.
    """

    plan: Plan
    cache: Cache
    world: World
    failed: dict[Place, str] = field(default_factory=dict)
    warm: set[Place] = field(default_factory=set)

    def run(self, units: list[Unit]) -> None:
        """Does this process's share of the units; all processes must call."""
        mine = units[self.world.rank :: self.world.size]
        failed: dict[Place, str] = {}
        measured = None
        with _progress(sum(len(unit.items) for unit in mine), self.world) as progress:
            for unit in mine:
                if unit.place in failed:
                    continue
                job = self.plan.jobs[unit.place]
                if measured is None or measured.problem is not job.problem:
                    measured = _Measured(job.problem)
                progress.describe(self.plan.rows[unit.place[0]], job.problem.label)
                try:
                    if unit.place not in self.warm:
                        self._warm_up(job, unit, measured)
                        self.warm.add(unit.place)
                    self._solve(job, unit, measured, progress)
                except (InputError, CheckpointError) as error:
                    failed[unit.place] = str(error)
                progress.bar.update(len(unit.items))
        for theirs in self.world.gather(failed):
            self.failed |= theirs

    def time(self, unit: Unit) -> float:
        """Returns the seconds that the solver takes for a batch; keeps nothing of it."""
        job = self.plan.jobs[unit.place]
        return self._restore(job, unit, _Measured(job.problem), Evaluations())[1]

    def _warm_up(self, job: Job, unit: Unit, measured: "_Measured") -> None:
        """Runs a solver up to its first network evaluation, which loads weights and kernels."""

        def stop(count: int) -> None:
            raise _WarmError

        with contextlib.suppress(_WarmError):
            self._restore(job, unit, measured, Evaluations(stop))

    def _solve(self, job: Job, unit: Unit, measured: "_Measured", progress: "_Progress") -> None:
        evaluations = Evaluations(progress.evaluated)
        images, seconds = self._restore(job, unit, measured, evaluations)
        size = len(unit.items)
        timed_on = f"{place_of(self.world.device)}, batch {size}, {self.world.size} processes"
        for item, image in zip(unit.items, images.cpu(), strict=True):
            self.cache.write(
                job.key(*item),
                image,
                forward=evaluations.forward / size,
                backward=evaluations.backward / size,
                seconds=seconds / size,
                timed_on=timed_on,
                facts={**job.facts, "image": job.problem.names[item[0]], "sample": item[1]},
            )

    def _restore(
        self, job: Job, unit: Unit, measured: "_Measured", evaluations: Evaluations
    ) -> tuple[Tensor, float]:
        """The restorations of a batch, and the seconds of the solver's call."""
        device, problem = self.world.device, job.problem
        positions = [position for position, _ in unit.items]
        y = torch.stack([measured[position] for position in positions]).to(device)
        # A copy: measurements are made on the CPU, for every device the same.
        operator = copy.deepcopy(problem.operator_for(positions)).to(device)
        prior = CountedPrior(self._prior(problem), evaluations)
        rngs = [self._rng(problem.names[position], sample) for position, sample in unit.items]
        start = now(device)
        images = job.solver(y, operator, problem.told_noise, prior, rngs)
        return images, now(device) - start

    def _rng(self, name: str, sample: int) -> torch.Generator:
        key = (self.plan.config.seed, "solve", name, *([sample] if sample else []))
        return keyed_rng(self.world.device, *key)

    def _prior(self, problem: Problem) -> ScoreModel:
        config = problem.config
        return _read_prior(
            problem.prior,
            problem.facts["prior_sha256"],
            problem.unet,
            config.schedule,
            self.plan.config.precision,
            self.world.device,
        )


@cache
def _read_prior(
    path: Path, sha256: str | None, unet: Any, schedule: str, precision: str, device: torch.device
) -> ScoreModel:
    """The prior in a file of that content, read once."""
    network = MissingNetwork(path) if sha256 is None else read_prior_file(path, unet).network()
    return ScoreModel(network, Schedule.named(schedule), precision).to(device)


class _WarmError(Exception):
    """A solver has made its first network evaluation."""


class _Measured(dict):
    """Measurements of a column by position, made when they are first asked for."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem

    def __missing__(self, position: int) -> Tensor:
        self[position] = self.problem.measure(position)
        return self[position]


class _Progress:
    """Shows the cell at work, images done and network evaluations made."""

    def __init__(self, bar: tqdm) -> None:
        self.bar = bar
        self._evaluations, self._next_report = 0, 0.0

    def describe(self, row: str, column: str) -> None:
        """Names the cell."""
        self.bar.set_description(f"{row}, {column}", refresh=False)

    def evaluated(self, count: int) -> None:
        """Adds network evaluations, and shows their number now and then."""
        self._evaluations += count
        if (now := time.monotonic()) >= self._next_report:
            self.bar.set_postfix_str(f"{self._evaluations} evaluations")
            self._next_report = now + REPORT_EVERY


@contextlib.contextmanager
def _progress(total: int, world: World) -> Iterator[_Progress]:
    quiet = not world.is_first or total == 0
    with tqdm(total=total, unit="image", disable=quiet) as bar:
        yield _Progress(bar)
