"""Scores of the restorations in the cache, computed once and kept there.

All metrics see what a reader sees: restorations and clean images rounded to the nearest of 256
levels, as `davi evaluate` finds them in folders.
"""

import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import BatchSampler
from tqdm import tqdm

from davi.data.images import from_uint8, load_image, to_uint8
from davi.folders.scoring import FEW_IMAGES
from davi.metrics import features, perceptual, prior_features, scores
from davi.metrics.features import PairedFeatures
from davi.metrics.perceptual import Lpips
from davi.metrics.prior_features import PriorFeatures
from davi.metrics.protocols import (
    ALIGNED_PSNR,
    CALIBRATION,
    DETAIL,
    FID,
    SSIM,
    lpips_protocol,
    prior_features_protocol,
    psnr_protocol,
)
from davi.metrics.scores import IMAGE_SCORES, frechet_distance, moments
from davi.system.errors import InputError
from davi.system.files import parse_json_object, write_text
from davi.tables.cache import digest_of
from davi.tables.code_hash import code_hash
from davi.tables.config import TableConfig
from davi.tables.plan import Job, Place
from davi.tables.work import Work

Score = Callable[[Tensor, Tensor], Tensor]


def image_metrics(config: TableConfig) -> dict[str, str]:
    """Returns {metric of the table: its name in the cache} of what is scored image by image."""
    names = {name: name for name in (*IMAGE_SCORES, "prior_features")}
    names["lpips"] = f"lpips_{config.lpips}"
    return {metric: name for metric, name in names.items() if metric in config.metrics}


def metric_code(metric: str) -> str:
    """Returns the hash of the code that computes a metric."""
    if metric == "prior_features":
        return code_hash([Path(prior_features.__file__)]) + prior_features.version()
    if metric == "fid":
        modules = [features, scores]
    else:
        modules = [perceptual if metric.startswith("lpips") else scores]
    return code_hash([Path(inspect.getfile(module)) for module in modules])


def protocols(config: TableConfig) -> dict[str, str]:
    """Returns {metric: one line on how it is computed}."""
    few = ""
    if config.num_images < FEW_IMAGES:
        few = f"; of {config.num_images} images, biased upwards (fewer than {FEW_IMAGES})"
    texts = {
        "psnr": psnr_protocol("nearest").text,
        "aligned_psnr": ALIGNED_PSNR.text,
        "ssim": SSIM.text,
        "detail": DETAIL.text,
        "prior_features": prior_features_protocol().text,
        "lpips": lpips_protocol(config.lpips).text,
        "fid": FID.text + few,
        **{metric: protocol.text for metric, protocol in CALIBRATION.items()},
    }
    return {metric: texts[metric] for metric in config.metrics if metric in texts}


def truth_of(job: Job, position: int) -> Tensor:
    """Returns a clean image rounded to 8 bits, (C, H, W) in [-1, 1]."""
    return from_uint8(to_uint8(job.problem.clean(position)))


def score_missing(work: Work) -> dict[str, str]:
    """Scores the restorations that have no scores yet; returns why metrics cannot be computed."""
    world, absent = work.world, {}
    for metric, name in image_metrics(work.plan.config).items():
        missing = world.on_first(lambda name=name: _without_score(work, name))
        if not missing:
            continue
        # The first process alone looks for weights: they may have to be downloaded.
        reason = world.on_first(lambda name=name: _reason_against(name, world.device))
        if reason is not None:
            absent[metric] = reason
            continue
        mine = missing[world.rank :: world.size]
        with tqdm(mine, desc=name, unit="batch", disable=not world.is_first) as batches:
            score = _score(name, world.device) if mine else None
            for place, positions in batches:
                _add_scores(work, place, positions, name, score)
        world.gather(None)  # all scores are there before anyone reads them
    return absent


def _without_score(work: Work, name: str) -> list[tuple[Place, list[int]]]:
    """Batches of positions of restorations that are there and lack a score."""
    found, code = [], metric_code(name)
    for place, job in work.plan.jobs.items():
        missing = []
        for position in range(job.num_images):
            restored = work.restored(place, position)
            if restored is not None and restored.scores.get(name, {}).get("code") != code:
                missing.append(position)
        batches = BatchSampler(missing, work.plan.config.batch_size, drop_last=False)
        found += [(place, batch) for batch in batches]
    return found


def _add_scores(work: Work, place: Place, positions: list[int], name: str, score: Score) -> None:
    job, code = work.plan.jobs[place], metric_code(name)
    restored, truth = (batch.to(work.world.device) for batch in _images(work, place, positions))
    for position, value in zip(positions, score(restored, truth).tolist(), strict=True):
        work.cache.add_scores(job.key(position, 0), {name: {"value": value, "code": code}})


def _images(work: Work, place: Place, positions: list[int]) -> tuple[Tensor, Tensor]:
    """Restorations and truth, (B, C, H, W) each."""
    truth = [truth_of(work.plan.jobs[place], position) for position in positions]
    channels = len(truth[0])
    restored = [load_image(work.picture(place, position), channels) for position in positions]
    return torch.stack(restored), torch.stack(truth)


def _score(name: str, device: torch.device) -> Score:
    if name.startswith("lpips_"):
        return Lpips(name.removeprefix("lpips_"), device)
    return PriorFeatures(device) if name == "prior_features" else IMAGE_SCORES[name]


def _reason_against(name: str, device: torch.device) -> str | None:
    """Why a metric cannot be computed, None if it can."""
    try:
        _score(name, device)
    except InputError as error:
        return str(error)
    return None


@dataclass
class SetDistance:
    """FID of cells, kept in the cache; weights that are missing are looked for only once.

    Attributes:
        work: on the table.
        reason: why it cannot be computed, once that is known.
    """

    work: Work
    reason: str | None = None

    def __call__(self, place: Place) -> float:
        """Returns the FID of all images of a cell, whose restorations are there.

        Raises:
            InputError: fewer than two images, or no weights.
        """
        job = self.work.plan.jobs[place]
        if job.num_images < 2:
            raise InputError("FID needs at least 2 images")
        if self.reason is not None:
            raise InputError(self.reason)
        keys = [job.key(position, 0) for position in range(job.num_images)]
        path = self.work.cache.folder / "fid" / f"{digest_of([keys, metric_code('fid')])}.json"
        if (value := _kept_value(path)) is not None:
            return value
        try:
            value = self._compute(place)
        except InputError as error:
            self.reason = str(error)
            raise
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"value": value}) + "\n")
        return value

    def _compute(self, place: Place) -> float:
        job, batch_size = self.work.plan.jobs[place], self.work.plan.config.batch_size
        pixels = (to_uint8(truth_of(job, position)) for position in range(job.num_images))
        digests = [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in pixels]
        paired = PairedFeatures(digests, self.work.world.device)
        for positions in BatchSampler(range(job.num_images), batch_size, drop_last=False):
            restored, truth = _images(self.work, place, positions)
            paired.add(positions, truth, restored)
        truth, restored = paired.sets()
        return frechet_distance(*moments(truth), *moments(restored))


def _kept_value(path: Path) -> float | None:
    try:
        value = parse_json_object(path.read_text(encoding="utf-8")).get("value")
    except (OSError, ValueError):  # missing, or no text
        return None
    return value if isinstance(value, float) else None
