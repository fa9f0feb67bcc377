"""How far the samples of solvers are from exact posteriors, in one table."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import Field
from tqdm import tqdm

from davi.benchmarks.gaussian_posterior import (
    GaussianProblem,
    PosteriorDistance,
    draw_samples,
    gaussian_problem,
    posterior_distance,
    smooth_covariance,
)
from davi.benchmarks.measuring import markdown_table
from davi.config.section import Section
from davi.config.yaml_file import load_config
from davi.operators.colorization import Colorization
from davi.operators.denoising import Denoising
from davi.operators.gaussian_blur import GaussianBlur
from davi.operators.inpainting import Inpainting, centred_box
from davi.operators.super_resolution import SuperResolution
from davi.solvers.base import TRAINING
from davi.solvers.solver_list import ListedSolver
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng
from guided_diffusion.errors import CheckpointError

IMAGE_SHAPE = (3, 8, 8)
SIGMA_Y, SIGMA_Y_DENOISING = 0.05, 0.2
OPERATORS = {
    "gaussian_blur": lambda: GaussianBlur(IMAGE_SHAPE, 61, 3.0),
    "super_resolution": lambda: SuperResolution(IMAGE_SHAPE, 4),
    "inpainting": lambda: Inpainting(IMAGE_SHAPE, centred_box(8, 8, 4)),
    "denoising": lambda: Denoising(IMAGE_SHAPE),
    "colorization": lambda: Colorization(IMAGE_SHAPE),
}
NOTES = """\
Prior and noise are Gaussian: x_0 ~ N(0, C), images of {shape} whose neighbouring pixels and
channels resemble each other, y = A x_0 + n, sigma_y {sigma} (denoising {sigma_denoising}). The
posterior N(m, P) is then exact, as are the score that solvers get for a network, and A with its SVD
(blur of 61 taps, sigma 3; 4x super-resolution; a hole of 4x4 in the middle; all in float64). Every
solver draws {count} samples x for one measurement per operator. A cell holds

* mean error: |E x - m| / sqrt(trace P). Exact: 0; a mean of {count} exact draws has about
  1 / sqrt({count}) = {floor:.3f}, and a solver with less spread proportionally less.
* gain: <E x, m> / <m, m>. Exact: 1. Below, y is trusted too little; above, too much.
* spread: sqrt(trace cov x / trace P). Exact: 1. Below, samples are too sure.

The first row draws from N(m, P) itself: differences as small as its own are chance.
docs/solvers.md says why each solver deviates. No network was trained for this prior, so that
methods which need one are absent.
"""


class PosteriorConfig(Section):
    """What a file of configs/benchmarks/ says of this table.

    Attributes:
        num_samples: of each solver for each operator.
        solvers: the rows.
    """

    num_samples: int = Field(300, ge=2)
    solvers: tuple[ListedSolver, ...] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True)
class SolverDistance:
    """A row: nothing but a note if the solver is not there or refuses.

    Attributes:
        method: its name in tables.
        settings: the hyperparameters that the list sets.
        num_samples: for each operator.
        distances: of each operator.
        note: whatever there is to say.
    """

    method: str
    settings: str
    num_samples: int
    distances: dict[str, PosteriorDistance] = field(default_factory=dict)
    note: str = ""


def measure_distances(path: Path) -> list[SolverDistance]:
    """Measures one solver after the other, on the CPU.

    Args:
        path: of a PosteriorConfig.

    Returns:
        One for exact draws, and one for each solver of the file.

    Raises:
        InputError: as `load_config`.
    """
    config = load_config(path, PosteriorConfig)
    covariance = smooth_covariance(IMAGE_SHAPE)
    problems = {
        task: gaussian_problem(operator(), sigma_y_of(task), covariance)
        for task, operator in OPERATORS.items()
    }
    rows = tqdm(config.solvers, desc="measuring", unit="solver")
    return [
        _exact_row(problems, config.num_samples),
        *(_measure_row(row, path.parent, problems, config.num_samples) for row in rows),
    ]


def sigma_y_of(task: str) -> float:
    """Returns the noise of a task."""
    return SIGMA_Y_DENOISING if task == "denoising" else SIGMA_Y


def _exact_row(problems: dict[str, GaussianProblem], num_samples: int) -> SolverDistance:
    """What chance alone does."""
    distances = {}
    for task, problem in problems.items():
        rng = keyed_rng("cpu", 0, "exact draws", task)
        z = torch.randn(num_samples, len(problem.mean), generator=rng, dtype=torch.float64)
        draws = problem.mean + z @ torch.linalg.cholesky(problem.covariance).T
        distances[task] = posterior_distance(draws, problem)
    return SolverDistance(
        method="exact draws", settings="", num_samples=num_samples, distances=distances
    )


def _measure_row(
    row: ListedSolver, folder: Path, problems: dict[str, GaussianProblem], num_samples: int
) -> SolverDistance:
    settings = ", ".join(f"{key} {value}" for key, value in row.set.items())
    method, note, distances = row.name, row.note, {}
    try:
        for task, problem in problems.items():
            solver = row.read(folder, task)
            method = solver.label
            if TRAINING in solver.needs:
                raise InputError("needs training")
            if solver.tasks is not None and task not in solver.tasks:
                continue
            distances[task] = posterior_distance(
                draw_samples(solver, problem, num_samples), problem
            )
    except (InputError, CheckpointError) as error:
        distances, note = {}, "; ".join(filter(None, [f"absent: {error}", row.note]))
    return SolverDistance(
        method=method, settings=settings, num_samples=num_samples, distances=distances, note=note
    )


def distance_table(found: list[SolverDistance]) -> str:
    """Returns a Markdown table, below what it means."""
    count = found[0].num_samples
    notes = NOTES.format(
        shape="x".join(map(str, IMAGE_SHAPE)),
        sigma=SIGMA_Y,
        sigma_denoising=SIGMA_Y_DENOISING,
        count=count,
        floor=count**-0.5,
    )
    rows = []
    for each in found:
        distances = [_cell(each.distances.get(task)) for task in OPERATORS]
        rows.append([each.method, each.settings, *distances, each.note])
    return f"{notes}\n{markdown_table(['method', 'settings', *OPERATORS, 'note'], rows)}"


def _cell(distance: PosteriorDistance | None) -> str:
    if distance is None:
        return "-"
    return f"{distance.mean_error:.2f} / {distance.gain:.3f} / {distance.spread:.2f}"
