"""Any solver on the measurement that the page shows."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from davi.app.restoring import Measured
from davi.benchmarks.measuring import now
from davi.metrics.scores import psnr
from davi.operators.measurement import ForwardModel, lift
from davi.operators.noise import GaussianNoise
from davi.operators.operator import ImageShape, Operator
from davi.priors.weight_file import read_prior_file
from davi.schedule import Schedule
from davi.score import ScoreModel
from davi.solvers.prior import CountedPrior, Evaluations
from davi.solvers.solver_file import read_solver
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng
from davi.system.shipped import CONFIGS, shipped_folder

DATA_SET = "photos"  # whose hyperparameters, as the shipped prior is one of photographs
MAX_SECONDS = 120.0


@dataclass(frozen=True)
class Solved:
    """What a solver made of the middle of a picture.

    Attributes:
        label: the method's name.
        before: (C, H, W) the measurement there, on the image grid.
        image: (C, H, W) the restoration, clipped to [-1, 1].
        seconds: that it took.
        evaluations: of networks.
        psnr: in dB; None where the truth is not known.
    """

    label: str
    before: Tensor
    image: Tensor
    seconds: float
    evaluations: int
    psnr: float | None

    @property
    def line(self) -> str:
        """The result in one line."""
        score = "" if self.psnr is None else f", {self.psnr:.2f} dB"
        return f"{self.label}: {self.seconds:.2f} s, {self.evaluations} evaluations{score}"


def solver_files() -> dict[str, Path]:
    """Returns {name: YAML} of the shipped solvers."""
    folder = shipped_folder(CONFIGS) / "solvers"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def solve(measured: Measured, name: str, seed: int = 0) -> Solved:
    """Returns what a solver makes of the middle of a picture, of the size of a piece.

    The time does not count the reading of networks.

    Args:
        measured: the picture's measurement.
        name: a key of `solver_files`.
        seed: of the solver's draws.

    Raises:
        InputError, CheckpointError: the picture is smaller than a piece, the solver is not for this
            task, or it takes longer than `MAX_SECONDS`.
    """
    restorer = measured.restorer
    solver = read_solver(solver_files()[name], DATA_SET, restorer.task)
    if solver.tasks is not None and restorer.task not in solver.tasks:
        raise InputError(f"{solver.label} is for {', '.join(sorted(solver.tasks))} only")
    device = restorer.device
    y, truth = _middle(measured, seed)
    operator = _piece_operator(measured).to(device)
    noise = GaussianNoise(measured.sigma, measured.sigma)
    model = _prior(restorer.config.prior.path, restorer.precision, device)

    def restored(on_forward: Callable[[int], None]) -> tuple[Tensor, int]:
        prior = CountedPrior(model, Evaluations(on_forward))
        rngs = [keyed_rng(device, seed, "app", "solver")]
        return solver(y, operator, noise, prior, rngs), prior.evaluations.forward

    with contextlib.suppress(_WarmError):
        restored(_warm)
    start = now(device)
    image, evaluations = restored(_stop_at(start + MAX_SECONDS, solver.label))
    seconds = now(device) - start
    image = image.clamp(-1, 1).cpu()
    score = None if truth is None else psnr(image, truth).item()
    before = lift(y.cpu(), restorer.image_shape, "nearest")
    return Solved(solver.label, before[0], image[0], seconds, evaluations, score)


class _WarmError(Exception):
    """A solver has made its first network evaluation, for which it read its networks."""


def _warm(count: int) -> None:
    raise _WarmError


def _stop_at(end: float, label: str) -> Callable[[int], None]:
    def stop(count: int) -> None:
        if time.perf_counter() > end:
            raise InputError(f"{label} takes longer than {MAX_SECONDS:.0f} s and was stopped")

    return stop


def _middle(measured: Measured, seed: int) -> tuple[Tensor, Tensor | None]:
    """A measurement (1, C', h, w) of the middle of a picture, and the truth, as large as a piece.

    A known truth is measured anew, so that y = A x + n holds at the borders, too: what a blur
    brings across the borders of a part is in the large measurement alone.
    """
    restorer, truth = measured.restorer, measured.truth
    if truth is None:
        y = _cut(measured.y, restorer.measurement_shape)[None]
        return y.to(restorer.device), None
    truth = _cut(truth, restorer.image_shape)[None]
    operator = _piece_operator(measured).to(restorer.device)
    model = ForwardModel(operator, GaussianNoise(measured.sigma, measured.sigma))
    rngs = [keyed_rng(restorer.device, seed, "app", "middle")]
    return model.measure(truth.to(restorer.device), rngs)[0], truth


def _piece_operator(measured: Measured) -> Operator:
    """A for a piece: with the hole that was drawn, where damage is at one place."""
    trained = measured.restorer.operator
    return trained if trained.same_everywhere else measured.operator


def _cut(picture: Tensor, shape: ImageShape) -> Tensor:
    """The middle of a picture, of a shape.

    Raises:
        InputError: it is smaller.
    """
    (height, width), (tall, wide) = picture.shape[1:], shape[1:]
    if height < tall or width < wide:
        raise InputError(f"solvers take {tall}x{wide} pixels; this picture has {height}x{width}")
    top, left = (height - tall) // 2, (width - wide) // 2
    return picture[:, top : top + tall, left : left + wide]


@cache
def _prior(path: Path, precision: str, device: torch.device) -> ScoreModel:
    """The prior in a file, read once."""
    file = read_prior_file(path)
    schedule = Schedule.named(file.schedule)
    return ScoreModel(file.network(), schedule, precision, prediction=file.prediction).to(device)
