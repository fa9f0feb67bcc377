"""Compares a folder of restorations with a folder of references, image by image and as sets."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from davi.folders.ensemble_scoring import Ensembles, open_ensembles, sample_folders
from davi.folders.pairs import Pair, pair_by_name, read_batches
from davi.metrics.features import PairedFeatures
from davi.metrics.means import groups_by_name, mean_and_error
from davi.metrics.perceptual import Lpips
from davi.metrics.prior_features import PriorFeatures
from davi.metrics.protocols import (
    ALIGNED_PSNR,
    CALIBRATION,
    DETAIL,
    FID,
    SAVED_AS,
    SSIM,
    Protocol,
    kid_protocol,
    lpips_protocol,
    prior_features_protocol,
    psnr_protocol,
)
from davi.metrics.scores import IMAGE_SCORES, frechet_distance, kid, moments
from davi.system.choices import DEFAULT_METRICS, LPIPS_DEFAULT
from davi.system.errors import InputError, shown
from davi.system.files import atomic_path, make_folder, write_text
from davi.system.ledger import read_settings

# FID of n images is biased upwards by a term of order 1 / n; below the number of features the
# covariance does not even have full rank.
FEW_IMAGES = 2048
SUMMARY = "summary.json"
MIN_IMAGES = {"fid": 2, "kid": 4}  # a covariance needs two, and KID two in each half
KID_SUBSETS, KID_SEED = 100, 0
DIGITS = {"kid": 6}  # after the point; others have 4

Score = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Evaluation:
    """Result of `evaluate_folders`.

    Attributes:
        per_image: {name: {metric: value}}.
        summary: {metric: {"mean", "standard_error"}}, for KID also the bounds "low" and "high" of
            a 95 % interval; FID and spread_error, properties of the set, have no error.
        protocols: {metric: how it was computed}.
        notes: what a reader must know: metrics left out and why, few images.
        calibration: of several samples of every image, see `Ensembles.calibration`; else empty.
        groups: the group of each image, which errors count instead of images; None: images.
    """

    per_image: dict[str, dict[str, float]] = field(default_factory=dict)
    summary: dict[str, dict[str, float]] = field(default_factory=dict)
    protocols: dict[str, Protocol] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    calibration: dict[str, Any] = field(default_factory=dict)
    groups: list[str] | None = None

    def group(self, rule: str) -> None:
        """Lets errors count groups of images, see `davi.metrics.means.groups_by_name`."""
        self.groups = groups_by_name(list(self.per_image), rule)
        groups = list(dict.fromkeys(map(repr, self.groups)))
        self.notes.append(
            f"standard errors count {len(groups)} groups of images, not images: {shown(groups)}"
        )

    def average(self, metric: str) -> None:
        """Adds the mean of a metric of single images to the summary."""
        values = [row[metric] for row in self.per_image.values()]
        self.summary[metric] = mean_and_error(values, self.groups)

    def table(self) -> str:
        """Returns the summary as text."""
        images = f"{len(self.per_image)} images"
        if self.groups is not None:
            images += f" in {len(set(self.groups))} groups"
        lines = [f"{'metric':<14}{'mean':>10}{'std. error':>12}   ({images})"]
        for metric, values in self.summary.items():
            form = f".{DIGITS.get(metric, 4)}f"
            error = values["standard_error"]
            error = "-" if math.isnan(error) else f"{error:{form}}"
            interval = ""
            if "low" in values:
                interval = f"   95 %: {values['low']:{form}} to {values['high']:{form}}"
            lines.append(f"{metric:<14}{values['mean']:>10{form}}{error:>12}{interval}")
        lines += [protocol.text for protocol in self.protocols.values()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def save(self, folder: Path) -> None:
        """Writes per_image.csv and summary.json into an existing folder.

        Bytes of a name that are no UTF-8 become backslash escapes, as in all that is printed.
        """
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["name", *next(iter(self.per_image.values()))])
        writer.writerows([name, *row.values()] for name, row in self.per_image.items())
        with atomic_path(folder / "per_image.csv") as temporary:
            temporary.write_bytes(text.getvalue().encode("utf-8", "backslashreplace"))
        write_text(folder / SUMMARY, json.dumps(self._as_json(), indent=2) + "\n")

    def _as_json(self) -> dict[str, Any]:
        return {
            "num_images": len(self.per_image),
            **({} if self.groups is None else {"num_groups": len(set(self.groups))}),
            "summary": {
                metric: {key: value if math.isfinite(value) else None for key, value in row.items()}
                for metric, row in self.summary.items()
            },
            "protocols": {metric: each.as_json() for metric, each in self.protocols.items()},
            "notes": self.notes,
            **({"calibration": self.calibration} if self.calibration else {}),
        }


def new_evaluation(folder: Path, overwrite: bool) -> Path:
    """Returns the folder of an evaluation, created if needed.

    Raises:
        InputError: it holds one already, which is not to be overwritten.
    """
    if (folder / SUMMARY).exists() and not overwrite:
        raise InputError(
            f"{folder}: holds an evaluation already; add --overwrite or choose another --output"
        )
    return make_folder(folder)


def evaluate_folders(
    reference: Path,
    restored: Path,
    metrics: Sequence[str] | None = None,
    *,
    device: torch.device,
    measured: Path | None = None,
    lpips: Sequence[str] = LPIPS_DEFAULT,
    batch_size: int = 16,
    group_by: str | None = None,
) -> Evaluation:
    """Returns the scores of restored images against references of the same names.

    Of a folder with several samples of every image the first one is judged as a restoration, and
    all of them by the metrics of calibration.

    Args:
        reference: folder of true images, nested folders included.
        restored: folder of images to judge, or of several samples, see `sample_folders`.
        metrics: some of `davi.system.choices.METRICS` and `CALIBRATION`; by default all that there
            are for such a folder but `prior_features`, which takes a network evaluation an image.
        device: where everything is computed but the last steps of FID and KID.
        measured: of several samples: the folder of davi degrade that was restored, for `residual`.
        lpips: some of `davi.metrics.protocols.LPIPS_VARIANTS`.
        batch_size: images at a time; without influence on the results but for rounding.
        group_by: for `Evaluation.group`; None: errors count images.

    Raises:
        InputError: images without partner, unreadable, or of different sizes; they are listed.
    """
    samples = sample_folders(reference, restored)
    if measured is not None and not samples:
        raise InputError(
            f"{measured}: no effect, since {restored} holds no sample_000/ of several samples; "
            "leave --measured out"
        )
    if metrics is None:
        metrics = (*DEFAULT_METRICS, *CALIBRATION) if samples else DEFAULT_METRICS
    single = samples[0] if samples else restored
    pairs = pair_by_name(reference, single)
    result = Evaluation(per_image={pair.name: {} for pair in pairs})
    if group_by is not None:
        result.group(group_by)
    scores = _image_metrics(metrics, lpips, recorded_rounding(single), device, result)
    wanted, features = _set_metrics(metrics, pairs, device, result)
    ensembles = open_ensembles(reference, samples, metrics, measured, result.notes)
    if not scores and features is None and ensembles is None:
        raise InputError("none of the metrics can be computed: " + "; ".join(result.notes))
    if scores or features is not None:
        _score_images(pairs, scores, features, batch_size, device, result)
    if features is not None:
        _compare_sets(wanted, *features.sets(), result)
    if samples and result.summary:
        result.notes.append(f"{', '.join(result.summary)}: of {single.name} only")
    if ensembles is not None:
        ensembles.compute(device)
        _add_calibration(ensembles, result)
    return result


def _score_images(
    pairs: list[Pair],
    scores: dict[str, Score],
    features: PairedFeatures | None,
    batch_size: int,
    device: torch.device,
    result: Evaluation,
) -> None:
    """Adds the metrics of single images, and gathers the features of the sets."""
    with tqdm(total=len(pairs), desc="evaluating", unit="image") as bar:
        for indices, truth, image in read_batches(pairs, batch_size):
            truth, image = truth.to(device), image.to(device)
            for metric, score in scores.items():
                for index, value in zip(indices, score(image, truth).tolist(), strict=True):
                    result.per_image[pairs[index].name][metric] = value
            if features is not None:
                features.add(indices, truth, image)
            bar.update(len(indices))
    for metric in scores:
        result.average(metric)


def _add_calibration(ensembles: Ensembles, result: Evaluation) -> None:
    """Adds the scores of several samples of every image."""
    for name, row in ensembles.per_image.items():
        result.per_image[name] |= row
    for metric in ensembles.metrics:
        result.protocols[metric] = CALIBRATION[metric]
        if metric == "spread_error":
            ratio = ensembles.spread_error()
            result.summary[metric] = {"mean": ratio, "standard_error": math.nan}
        else:
            result.average(metric)
    result.calibration = ensembles.calibration()


def recorded_rounding(folder: Path) -> str:
    """Returns how the images of a folder became files, a key of `SAVED_AS`.

    The record of the command that made the folder says so, or that of the folder above, which has
    one folder for each sample or picture.
    """
    settings = read_settings(folder) or read_settings(folder.resolve().parent)
    if settings.get("bit_depth", 8) != 8 or "keep_format" in settings:
        return "other"
    rounding = settings.get("rounding", "nearest") if settings else "unknown"
    return rounding if rounding in list(SAVED_AS) else "unknown"  # of a list, for any JSON value


def _image_metrics(
    metrics: Sequence[str],
    lpips: Sequence[str],
    rounding: str,
    device: torch.device,
    result: Evaluation,
) -> dict[str, Score]:
    """The metrics of single images by name; what lacks its weights is noted and left out."""
    scores: dict[str, Score] = {}
    plain = {
        "psnr": psnr_protocol(rounding),
        "aligned_psnr": ALIGNED_PSNR,
        "ssim": SSIM,
        "detail": DETAIL,
    }
    for metric, score in IMAGE_SCORES.items():
        if metric in metrics:
            scores[metric] = score
            result.protocols[metric] = plain[metric]
    if "prior_features" in metrics:
        scores["prior_features"] = PriorFeatures(device)
        result.protocols["prior_features"] = prior_features_protocol()
    for variant in lpips if "lpips" in metrics else ():
        metric = f"lpips_{variant}"
        try:
            scores[metric] = Lpips(variant, device)
        except InputError as error:
            result.notes.append(f"{metric} is left out: {error}")
            continue
        result.protocols[metric] = lpips_protocol(variant)
    return scores


def _set_metrics(
    metrics: Sequence[str], pairs: list[Pair], device: torch.device, result: Evaluation
) -> tuple[list[str], PairedFeatures | None]:
    """The metrics of the sets that can be computed, and what gathers their features."""
    wanted = []
    for metric, needed in MIN_IMAGES.items():
        if metric in metrics and len(pairs) >= needed:
            wanted.append(metric)
        elif metric in metrics:
            result.notes.append(f"{metric} is left out: it needs at least {needed} images")
    if not wanted:
        return [], None
    try:
        return wanted, PairedFeatures([pair.sha256 for pair in pairs], device)
    except InputError as error:
        result.notes += [f"{metric} is left out: {error}" for metric in wanted]
        return [], None


def _compare_sets(
    wanted: list[str], truth: np.ndarray, restored: np.ndarray, result: Evaluation
) -> None:
    """Adds FID and KID of two sets of features."""
    if "fid" in wanted:
        distance = frechet_distance(*moments(truth), *moments(restored))
        result.summary["fid"] = {"mean": distance, "standard_error": math.nan}
        result.protocols["fid"] = FID
        if len(truth) < FEW_IMAGES:
            result.notes.append(
                f"FID of {len(truth)} images is biased upwards (fewer than {FEW_IMAGES}): compare "
                "it only with FID of as many images"
            )
    if "kid" in wanted:
        distance, halves = kid(truth, restored, KID_SUBSETS, KID_SEED)
        low, high = np.quantile(halves, [0.025, 0.975]).tolist()
        error = float(halves.std(ddof=1))
        row = {"mean": distance, "standard_error": error, "low": low, "high": high}
        result.summary["kid"] = row
        result.protocols["kid"] = kid_protocol(len(truth), KID_SUBSETS, KID_SEED)
        if result.groups is not None:
            result.notes.append("kid: its error and interval count images, not groups")
