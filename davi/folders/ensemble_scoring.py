"""Scores several samples of every image: how well they tell what is not known."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from davi.data.images import load_image
from davi.folders.measured import KnownMeasurements, known_measurements
from davi.folders.pairs import Pair, pair_by_name
from davi.metrics.ensembles import (
    LEVELS,
    covered,
    image_scores,
    rank_histogram,
    spread_error_ratio,
    widest_level,
)
from davi.operators.operator import Operator
from davi.system.choices import CALIBRATION
from davi.system.pipeline import file_threads, map_ahead

CURVE = [tenths / 10 for tenths in range(1, 10)]  # levels of the coverage curve
FIRST_SAMPLE = "sample_000"


def sample_folders(reference: Path, restored: Path) -> list[Path]:
    """Returns the folders of the samples of `davi sample`; [] if the images are single ones."""
    if not (restored / FIRST_SAMPLE).is_dir() or (reference / FIRST_SAMPLE).is_dir():
        return []
    return sorted(path for path in restored.glob("sample_[0-9]*") if path.is_dir())


@dataclass
class Ensembles:
    """The samples of every image, and their scores once they are computed.

    Attributes:
        pairs: for each sample the pairs of all images, in one order.
        metrics: some of `davi.system.choices.CALIBRATION`.
        measured: for the residual.
        per_image: {name: {column: value}}; spread_error has the columns "spread" and "error".
        ranks: rank histogram of all images, (N + 1,) float64.
    """

    pairs: list[list[Pair]]
    metrics: list[str]
    measured: KnownMeasurements | None
    per_image: dict[str, dict[str, float]] = field(default_factory=dict)
    ranks: Tensor | None = None

    def compute(self, device: torch.device) -> None:
        """Scores all images, one at a time: their samples may be many.

        Raises:
            InputError: a file has changed since it was checked, or a measurement cannot be read.
        """
        self.ranks = torch.zeros(len(self.pairs) + 1, dtype=torch.float64)
        with file_threads() as executor:
            images = map_ahead(executor, _load, zip(*self.pairs, strict=True), 2)
            total = len(self.pairs[0])
            for name, truth, samples in tqdm(images, "scoring samples", total, unit="image"):
                truth, samples = truth.to(device), samples.to(device)
                ranks = rank_histogram(samples, truth).cpu()
                self.ranks += ranks[0]
                measured = self._measured(name, device)
                scores = image_scores(self.metrics, samples, truth, ranks, measured)
                self.per_image[name] = {column: score.item() for column, score in scores.items()}

    def spread_error(self) -> float:
        """Returns the spread/error ratio of all images."""
        columns = [[row["spread"], row["error"]] for row in self.per_image.values()]
        return spread_error_ratio(*torch.tensor(columns, dtype=torch.float64).T).item()

    def calibration(self) -> dict[str, Any]:
        """Returns the rank histogram of mean 1, and {level: coverage} of all values together."""
        levels = [level for level in CURVE if level <= widest_level(len(self.pairs))]
        return {
            "num_samples": len(self.pairs),
            "rank_histogram": (self.ranks / self.ranks.mean()).tolist(),
            "coverage": {str(level): covered(self.ranks, level).item() for level in levels},
        }

    def _measured(self, name: str, device: torch.device) -> tuple[Tensor, Operator, float] | None:
        """The measurement of an image, its operator and sigma, if they are known."""
        if self.measured is None:
            return None
        y, operator = self.measured.read(name)
        return y.to(device), operator.to(device), self.measured.sigma


def open_ensembles(
    reference: Path,
    samples: Sequence[Path],
    metrics: Sequence[str],
    measured: Path | None,
    notes: list[str],
) -> Ensembles | None:
    """Returns the samples of all images, checked; None if no score of them can be computed.

    Args:
        reference: folder of true images.
        samples: of `sample_folders`.
        metrics: others than those of `davi.system.choices.CALIBRATION` are passed over.
        measured: the folder of davi degrade that was restored, for the residual.
        notes: is told which metrics are left out, and why.

    Raises:
        InputError: as `pair_by_name` for each sample, and as `known_measurements`.
    """
    wanted = [metric for metric in CALIBRATION if metric in metrics]
    if wanted and len(samples) < 2:
        notes += [f"{metric} is left out: it needs several samples" for metric in wanted]
        wanted = []
    if not wanted:
        return None
    pairs = [pair_by_name(reference, folder) for folder in samples]
    reasons = _too_wide(wanted, len(samples))
    known = _measurements(measured, pairs[0]) if "residual" in wanted else None
    if isinstance(known, str):
        reasons["residual"], known = known, None
    notes += [f"{metric} is left out: {reason}" for metric, reason in reasons.items()]
    chosen = [metric for metric in wanted if metric not in reasons]
    return Ensembles(pairs, chosen, known) if chosen else None


def _too_wide(metrics: Sequence[str], num_samples: int) -> dict[str, str]:
    """Why some coverages cannot be told."""
    widest = widest_level(num_samples)
    reason = f"intervals of {num_samples} samples are of at most {100 * widest:.1f} %"
    return {metric: reason for metric in metrics if LEVELS.get(metric, 0) > widest}


def _measurements(measured: Path | None, pairs: list[Pair]) -> KnownMeasurements | str:
    """The measurements of the pairs, or why they are not known."""
    if measured is None:
        return "it needs the measurements; give --measured a folder of davi degrade"
    return known_measurements(measured, {pair.name: pair.size for pair in pairs})


def _load(pairs: Sequence[Pair]) -> tuple[str, Tensor, Tensor]:
    """Name, truth (1, 3, H, W) and samples (N, 1, 3, H, W) of an image."""
    samples = torch.stack([load_image(pair.restored)[None] for pair in pairs])
    return pairs[0].name, load_image(pairs[0].truth)[None], samples
