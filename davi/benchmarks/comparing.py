"""Scores of several trainings of several configurations, on the same measurements."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset
from tqdm import tqdm

from davi.benchmarks.measuring import markdown_table
from davi.build import build_forward_model
from davi.metrics.protocols import SSIM
from davi.metrics.scores import detail, psnr, ssim
from davi.restorer import load
from davi.system.runtime import keyed_rng

BATCH = 32
SEED = 0  # of noise and samples
SCORES = {"PSNR [dB]": psnr, "SSIM": ssim, "detail [dB]": detail}
DIGITS = {"PSNR [dB]": 2, "SSIM": 3, "detail [dB]": 1}

PROTOCOL = (
    "Mean ± standard error over {images} images ± over {seeds} trainings; restorations not rounded "
    f"to 8 bits. {SSIM.text}. Detail: energy above half of the highest frequency against that of "
    "the truth."
)


@dataclass(frozen=True)
class Mean:
    """A mean with its two standard errors (NaN where there is but one image or seed)."""

    value: float
    over_images: float
    over_seeds: float

    @classmethod
    def of(cls, scores: Tensor) -> "Mean":
        """Returns the mean of (seeds, images)."""
        return cls(
            scores.mean().item(),
            _standard_error(scores.mean(dim=0)),
            _standard_error(scores.mean(dim=1)),
        )

    def text(self, digits: int) -> str:
        """Returns value +- error over images +- error over seeds."""
        errors = (self.over_images, self.over_seeds)
        return " ± ".join(f"{number:.{digits}f}" for number in (self.value, *errors))


def _standard_error(values: Tensor) -> float:
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan


def score_run(run: Path, images: Dataset, device: str) -> dict[str, Tensor]:
    """Returns every score of a training, (images,) float64 each.

    One restoration of one measurement of each image; noise and sample depend on the image's name
    only, so that all trainings for one operator restore the same measurements.

    Args:
        run: a run folder.
        images: of `open_images`.
        device: where to restore.

    Raises:
        InputError, CheckpointError: the run cannot be used.
    """
    restorer = load(run, device)
    forward_model = build_forward_model(restorer.config, restorer.image_shape, torch.device("cpu"))
    found: dict[str, list[Tensor]] = {name: [] for name in SCORES}
    batches = BatchSampler(range(len(images)), BATCH, drop_last=False)
    for indices in tqdm(batches, desc=run.name, unit="batch"):
        names = [images.name(index) for index in indices]
        x0 = torch.stack([images[index] for index in indices])
        rngs = [keyed_rng("cpu", SEED, "degrade", name) for name in names]
        y, _ = forward_model.measure(x0, rngs)
        restored = restorer.restore(y, seed=SEED, names=names)[0]
        for name, score in SCORES.items():
            found[name].append(score(restored, x0))
    return {name: torch.cat(parts) for name, parts in found.items()}


def comparison_table(scores: Mapping[str, Sequence[dict[str, Tensor]]]) -> str:
    """Returns a Markdown table, one row a configuration.

    The last column is the PSNR minus that of the first row, image by image and seed by seed.

    Args:
        scores: {name of a configuration: scores of each of its seeds, see `score_run`}; all have
            the same seeds and images.
    """
    rows, first = [], None
    for name, runs in scores.items():
        stacked = {score: torch.stack([run[score] for run in runs]) for score in SCORES}
        row = [Mean.of(values).text(DIGITS[score]) for score, values in stacked.items()]
        quality = stacked["PSNR [dB]"]
        first = quality if first is None else first
        same = quality is first
        rows.append([name, *row, "" if same else Mean.of(quality - first).text(2)])
    table = markdown_table(["configuration", *SCORES, "PSNR against the first"], rows)
    seeds, images = first.shape
    return f"{table}\n{PROTOCOL.format(images=images, seeds=seeds)}"
