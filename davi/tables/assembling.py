"""From the restorations in the cache to the table."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from davi.benchmarks.cost import network_size
from davi.benchmarks.measuring import machine
from davi.data.images import load_image, save_array, save_image
from davi.data.kernels import picture_of
from davi.metrics.means import mean_and_error
from davi.metrics.protocols import CALIBRATION
from davi.system.errors import InputError
from davi.tables.cache import Restored
from davi.tables.ensembles import (
    SampleScores,
    mean_ranks,
    sample_scores,
    spread_error_of,
    why_absent,
)
from davi.tables.plan import Job, Place
from davi.tables.problem import Problem
from davi.tables.result import NOT_APPLICABLE, Cell, Number, TableResult
from davi.tables.scoring import SetDistance, image_metrics, metric_code, protocols
from davi.tables.timing import seconds_of, timed_on
from davi.tables.work import Work

NOT_RUN = "not run yet"
WHITE_DEVIATION = 0.5  # posterior deviation that is shown white, for images in [-1, 1]


def assemble(work: Work, failed: dict[Place, str], absent_metrics: dict[str, str]) -> TableResult:
    """Returns the table; what is not there is absent, with the reason.

    Args:
        work: on the table, in the first process; pictures that the cache does not have are written
            to its folder.
        failed: cells that could not be run, and why.
        absent_metrics: metrics that cannot be computed here, and why.
    """
    plan, config = work.plan, work.plan.config
    maker = _CellMaker(work, absent_metrics)
    cells = {}
    for place in product(plan.rows, [column.id for column in config.columns]):
        row, column = place
        paper = dict(config.paper.get(row, {}).get(column, {}))
        reason = plan.absent.get(place) or failed.get(place)
        if reason is None:
            cells[place] = maker.make(place, paper)
        else:
            cells[place] = Cell(*place, paper=paper, absent={"all": reason})
    return TableResult(
        title=config.title,
        rows=plan.rows,
        columns={column.id: column.label for column in config.columns},
        metrics=config.metrics,
        cells=cells,
        truth={
            column: _truth(problem, plan.num_examples, work.folder / "pictures" / column)
            for column, problem in plan.problems.items()
        },
        footnotes=dict(config.footnotes),
        config=plan.resolved,
        facts=_facts(work),
    )


def _facts(work: Work) -> dict[str, object]:
    plan, config = work.plan, work.plan.config
    costs = {
        "seconds": f"of one image alone, all cells one after another; on {timed_on(work.folder)}",
        "nfe": "evaluations of a network per image, forward",
        "gmac": "forward and backward evaluations, by the multiply-accumulate operations of the "
        "prior's network; its weights are frozen, so that a backward one costs a forward one",
    }
    return {
        **machine(work.world.device),
        "images": config.num_images,
        **({"samples of an image": config.num_samples} if config.scores_samples else {}),
        "precision": config.precision,
        "seed": config.seed,
        **protocols(config),
        **{metric: text for metric, text in costs.items() if metric in config.metrics},
        **{
            f"noise that solvers are told of, {column.label}": f"Gaussian, sigma "
            f"{column.assumed_sigma:g}"
            for column in config.columns
            if column.assumed_sigma is not None
        },
        "standard deviation": f"pictures show {WHITE_DEVIATION:g} on the [-1, 1] scale as white",
        **{
            f"SHA-256 of {problem.config.prior.checkpoint}": problem.facts["prior_sha256"]
            or "missing"
            for problem in plan.problems.values()
        },
        **{
            f"SHA-256 of {job.solver.checkpoint}": job.facts["hyperparameters"]["checkpoint"]
            for job in plan.jobs.values()
            if "checkpoint" in job.facts["hyperparameters"]
        },
    }


class _CellMaker:
    """Makes the cells of a table."""

    def __init__(self, work: Work, absent_metrics: dict[str, str]) -> None:
        self.work, self.plan = work, work.plan
        self.absent_metrics = absent_metrics
        self.names = image_metrics(work.plan.config)
        self.codes = {name: metric_code(name) for name in self.names.values()}
        self.seconds = seconds_of(work)
        self.fid = SetDistance(work)

    def make(self, place: Place, paper: dict[str, float]) -> Cell:
        """Returns a cell."""
        job = self.plan.jobs[place]
        found = {
            name: restored
            for position, name in enumerate(job.problem.names[: job.num_images])
            if (restored := self.work.restored(place, position)) is not None
        }
        if not found:
            return Cell(*place, paper=paper, absent={"all": NOT_RUN})
        scored = sample_scores(self.work, place)
        per_image = {
            name: self._values(restored, scored.get(name), job) for name, restored in found.items()
        }
        numbers, absent = self._numbers(place, per_image, scored)
        count = len(found)
        return Cell(
            *place,
            numbers=numbers,
            paper=paper,
            absent=absent,
            num_images=count,
            wanted=job.num_images,
            forward=sum(restored.forward for restored in found.values()) / count,
            backward=sum(restored.backward for restored in found.values()) / count,
            per_image=per_image,
            pictures=self._pictures(place, job),
            ranks=mean_ranks(list(scored.values())) if len(scored) == count else [],
        )

    def _values(
        self, restored: Restored, scored: SampleScores | None, job: Job
    ) -> dict[str, float]:
        """All numbers of an image that the table asks for and that are there."""
        values = {
            metric: restored.scores[name]["value"]
            for metric, name in self.names.items()
            if restored.scores.get(name, {}).get("code") == self.codes[name]
        }
        values["nfe"] = restored.forward
        if "gmac" in self.plan.config.metrics:
            _, macs = network_size(job.problem.config.network.unet())
            values["gmac"] = (restored.forward + restored.backward) * macs / 1e9
        if scored is not None:
            values |= scored.values
        return {metric: values[metric] for metric in self.plan.config.metrics if metric in values}

    def _numbers(
        self,
        place: Place,
        per_image: dict[str, dict[str, float]],
        scored: dict[str, SampleScores],
    ) -> tuple[dict[str, Number], dict[str, str]]:
        """Means over images with their errors, and why some are missing."""
        numbers, absent = {}, {}
        for metric in self.plan.config.metrics:
            try:
                numbers[metric] = self._number(metric, place, per_image)
            except InputError as error:
                absent[metric] = str(error)
        if "spread_error" in numbers:  # a mean of the ratios of single images is biased
            numbers["spread_error"] = Number(spread_error_of(list(scored.values())))
        return numbers, absent

    def _number(self, metric: str, place: Place, per_image: dict[str, dict[str, float]]) -> Number:
        if metric == "fid":
            if len(per_image) < self.plan.jobs[place].num_images:
                raise InputError("not all images are restored yet")
            return Number(self.fid(place))
        if metric == "seconds":
            if place not in self.seconds:
                raise InputError("not timed yet")
            return Number(self.seconds[place])
        values = [values[metric] for values in per_image.values() if metric in values]
        if len(values) < len(per_image):
            if metric in CALIBRATION:
                raise InputError(why_absent(self.work, place, metric))
            raise InputError(self.absent_metrics.get(metric, "not computed yet"))
        sources = self.plan.jobs[place].problem.sources
        result = mean_and_error(values, [sources[name] for name in per_image])
        # Of a batch all images share the evaluations: no independent draws.
        has_error = metric in self.names or metric in CALIBRATION
        known = has_error and not math.isnan(result["standard_error"])
        return Number(result["mean"], result["standard_error"] if known else None)

    def _pictures(self, place: Place, job: Job) -> dict[str, dict[str, Path]]:
        pictures: dict[str, dict[str, Path]] = {
            kind: {} for kind in ("restored", "kernel", "mean", "std")
        }
        numbers = range(self.plan.config.num_samples)
        has_deviation = len(numbers) > 0 and not self.work.is_deterministic(place)
        folder = self.work.folder / "pictures" / place[1] / place[0]
        for position, name in enumerate(job.problem.names[: self.plan.num_examples]):
            if self.work.restored(place, position) is not None:
                pictures["restored"][name] = self.work.picture(place, position)
            kernel = self.work.cache.kernel(job.key(position, 0))
            if kernel.is_file():
                pictures["kernel"][name] = _save_kernel(kernel, folder / "kernel" / f"{name}.png")
            samples = [self.work.restored(place, position, number) for number in numbers]
            if not has_deviation or None in samples:
                continue
            files = [self.work.picture(place, position, number) for number in numbers]
            samples = torch.stack([load_image(file) for file in files])
            pictures["mean"][name] = _save(samples.mean(dim=0), folder / "mean" / f"{name}.png")
            pictures["std"][name] = _save(_shown(samples), folder / "std" / f"{name}.png")
        return {kind: files for kind, files in pictures.items() if files}


def _shown(samples: Tensor) -> Tensor:
    """The deviation of samples (N, C, H, W), mean over channels, as a gray picture."""
    deviation = samples.std(dim=0).mean(dim=0, keepdim=True)
    return 2 * (deviation / WHITE_DEVIATION).clamp(max=1) - 1


def _save_kernel(kernel: Path, path: Path) -> Path:
    """Writes a kernel file to look at, its largest tap white, with a copy beside it."""
    taps = torch.from_numpy(np.load(kernel))
    save_array(taps, path.with_suffix(".npy"))
    return _save(picture_of(taps[None, None], len(taps))[0], path)


def _truth(problem: Problem, count: int, folder: Path) -> dict[str, dict[str, Path]]:
    """Writes clean images and measurements of the examples, both of the size of the image."""
    files: dict[str, dict[str, Path]] = {"reference": {}, "measurement": {}}
    for position in range(count):
        name, clean = problem.names[position], problem.clean(position)
        shown = problem.picture(position)
        for kind, picture in (("reference", clean), ("measurement", shown)):
            files[kind][name] = _save(picture, folder / kind / f"{name}.png")
    return files


def _save(image: Tensor, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(image, path)
    return path


def absences(result: TableResult) -> list[str]:
    """Returns one line for each reason why something is missing, but for what is not meant."""
    places: dict[str, list[str]] = {}
    for (row, column), cell in result.cells.items():
        for metric, reason in cell.absent.items():
            if reason != NOT_APPLICABLE:
                what = "" if metric == "all" else f" {metric}"
                places.setdefault(reason, []).append(f"{row}/{column}{what}")
    return [f"{', '.join(where)}: {reason}" for reason, where in places.items()]
