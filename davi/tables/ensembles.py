"""Scores of all samples of an image together, computed once and kept in the cache."""

import inspect
import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from pydantic import TypeAdapter
from tqdm import tqdm

from davi.data.images import load_image
from davi.metrics import ensembles
from davi.metrics.ensembles import (
    LEVELS,
    image_scores,
    rank_histogram,
    spread_error_ratio,
    widest_level,
)
from davi.operators.noise import GaussianNoise
from davi.system.choices import CALIBRATION
from davi.system.files import write_text
from davi.tables.cache import digest_of
from davi.tables.code_hash import code_hash
from davi.tables.plan import Place
from davi.tables.problem import Problem
from davi.tables.scoring import truth_of
from davi.tables.work import Work

NO_SPREAD = "all samples of an image are the same"
NO_SIGMA = "a residual in units of the noise needs Gaussian noise of one sigma above 0"
NOT_SCORED = "not all samples are drawn and scored yet"


@dataclass(frozen=True)
class SampleScores:
    """How the samples of an image stand to its truth.

    Attributes:
        ranks: share of the entries whose truth has rank 0 .. N.
        spread, error: see `davi.metrics.ensembles.spread_error`.
        values: {metric: value}; no residual where there is no sigma, and no coverage of intervals
            that so few samples do not have.
    """

    ranks: list[float]
    spread: float
    error: float
    values: dict[str, float]


_RECORD = TypeAdapter(SampleScores)


def score_samples(work: Work) -> None:
    """Scores the images of which all samples are there, if the table asks for it.

    All processes must call.
    """
    if not work.plan.config.scores_samples:
        return
    world = work.world
    mine = world.on_first(lambda: _without_scores(work))[world.rank :: world.size]
    progress = tqdm(mine, desc="samples", unit="image", disable=not (world.is_first and mine))
    for place, position in progress:
        path = _path(work, place, position)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(asdict(_score(work, place, position))) + "\n")
    world.gather(None)  # all scores are there before anyone reads them


def sample_scores(work: Work, place: Place) -> dict[str, SampleScores]:
    """Returns {image: its scores}; of images that have none, and of a table without, nothing."""
    if not work.plan.config.scores_samples or work.is_deterministic(place):
        return {}
    job = work.plan.jobs[place]
    found = {
        job.problem.names[position]: _kept(work, place, position)
        for position in range(job.num_images)
    }
    return {name: scores for name, scores in found.items() if scores is not None}


def spread_error_of(scores: list[SampleScores]) -> float:
    """Returns the spread/error ratio of several images."""
    spread, error = (
        torch.tensor([getattr(each, name) for each in scores], dtype=torch.float64)
        for name in ("spread", "error")
    )
    return spread_error_ratio(spread, error).item()


def mean_ranks(scores: list[SampleScores]) -> list[float]:
    """Returns the shares of ranks over several images of one size."""
    return torch.tensor([each.ranks for each in scores], dtype=torch.float64).mean(dim=0).tolist()


def why_absent(work: Work, place: Place, metric: str) -> str:
    """Returns why an image of a cell lacks a metric of samples."""
    if work.is_deterministic(place):
        return NO_SPREAD
    if metric == "residual" and _sigma(work.plan.jobs[place].problem) is None:
        return NO_SIGMA
    return NOT_SCORED


def _without_scores(work: Work) -> list[tuple[Place, int]]:
    samples = range(work.plan.config.num_samples)
    return [
        (place, position)
        for place, job in work.plan.jobs.items()
        if not work.is_deterministic(place)
        for position in range(job.num_images)
        if _kept(work, place, position) is None
        and all(work.restored(place, position, sample) is not None for sample in samples)
    ]


def _score(work: Work, place: Place, position: int) -> SampleScores:
    problem, numbers = work.plan.jobs[place].problem, range(work.plan.config.num_samples)
    truth = truth_of(work.plan.jobs[place], position)[None]
    files = [work.picture(place, position, number) for number in numbers]
    samples = torch.stack([load_image(file, truth.shape[1]) for file in files])[:, None]
    ranks = rank_histogram(samples, truth)
    measured = None
    if (sigma := _sigma(problem)) is not None:
        measured = problem.measure(position)[None], problem.operator_for([position]), sigma
    widest = widest_level(len(samples))
    metrics = [
        metric
        for metric in CALIBRATION
        if LEVELS.get(metric, 0) <= widest and (metric != "residual" or measured)
    ]
    scores = image_scores(metrics, samples, truth, ranks, measured)
    spread, error = scores.pop("spread"), scores.pop("error")
    scores["spread_error"] = spread / error
    return SampleScores(
        ranks=(ranks[0] / ranks.sum()).tolist(),
        spread=spread.item(),
        error=error.item(),
        values={metric: value.item() for metric, value in scores.items()},
    )


def _sigma(problem: Problem) -> float | None:
    """The deviation of the noise, whatever solvers are told; None if there is no single one."""
    noise = problem.forward_model.noise
    is_single = isinstance(noise, GaussianNoise) and 0 < noise.sigma_low == noise.sigma_high
    return noise.sigma_low if is_single else None


def _kept(work: Work, place: Place, position: int) -> SampleScores | None:
    try:
        return _RECORD.validate_json(_path(work, place, position).read_bytes())
    except (OSError, ValueError):  # missing, or damaged
        return None


def _path(work: Work, place: Place, position: int) -> Path:
    job, samples = work.plan.jobs[place], range(work.plan.config.num_samples)
    keys = [job.key(position, sample) for sample in samples]
    return work.cache.folder / "samples" / f"{digest_of([keys, _code()])}.json"


@cache
def _code() -> str:
    """The hash of the code that computes the scores."""
    return code_hash([Path(inspect.getfile(ensembles))])
