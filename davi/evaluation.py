"""Compares a folder of restorations with a folder of references, image by image and as sets."""

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from davi.errors import InputError
from davi.files import atomic_path, write_text
from davi.images import list_files, load_image, open_image
from davi.metrics import SSIM_WINDOW, frechet_distance, psnr, ssim
from davi.perceptual import InceptionFeatures, Lpips

METRICS = ("psnr", "ssim", "lpips", "fid")
# FID of n images is biased upwards by a term of order 1 / n; below the number of features the
# covariance does not even have full rank.
FEW_IMAGES = 2048
PSNR_PROTOCOL = "PSNR: dB per image over all channels, 8-bit images, mean over images"
SSIM_PROTOCOL = "SSIM: Wang et al. 2004, Gaussian window of sigma 1.5, mean over channels"


@dataclass
class Evaluation:
    """Result of `evaluate_folders`.

    Attributes:
        per_image: {name: {metric: value}}.
        summary: {metric: {"mean", "standard_error"}}; FID, a property of the set, has no error.
        protocols: one sentence per metric, how it was computed.
        notes: what a reader must know: metrics left out and why, few images.
    """

    per_image: dict[str, dict[str, float]] = field(default_factory=dict)
    summary: dict[str, dict[str, float]] = field(default_factory=dict)
    protocols: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Returns the summary as text."""
        lines = [f"{'metric':<8}{'mean':>10}{'std. error':>12}   ({len(self.per_image)} images)"]
        for metric, values in self.summary.items():
            error = values["standard_error"]
            shown = "-" if math.isnan(error) else f"{error:.4f}"
            lines.append(f"{metric:<8}{values['mean']:>10.4f}{shown:>12}")
        return "\n".join([*lines, *self.protocols, *(f"note: {note}" for note in self.notes)])

    def save(self, folder: Path) -> None:
        """Writes per_image.csv and summary.json into an existing folder."""
        with (
            atomic_path(folder / "per_image.csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.writer(stream)
            metrics = list(next(iter(self.per_image.values())))
            writer.writerow(["name", *metrics])
            for name, values in self.per_image.items():
                writer.writerow([name, *(values[metric] for metric in metrics)])
        content = {
            "num_images": len(self.per_image),
            "summary": {
                metric: {key: value if math.isfinite(value) else None for key, value in row.items()}
                for metric, row in self.summary.items()
            },
            "protocols": self.protocols,
            "notes": self.notes,
        }
        write_text(folder / "summary.json", json.dumps(content, indent=2) + "\n")


class Fid:
    """Frechet distance between the Inception features of two sets of images."""

    def __init__(self, device: torch.device) -> None:
        self.features = InceptionFeatures(device)
        self.protocol = self.features.protocol
        self._rows: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])

    def add(self, truth: Tensor, image: Tensor) -> None:
        """Takes in one image (1, 3, H, W) of either set."""
        for rows, x in zip(self._rows, (truth, image), strict=True):
            rows.append(self.features(x))

    def value(self) -> float:
        """Returns the distance of all images taken in."""
        moments = []
        for rows in self._rows:
            features = np.concatenate(rows)
            moments += [features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))]
        return frechet_distance(*moments)


def pair_by_name(reference: Path, restored: Path) -> dict[str, tuple[Path, Path]]:
    """Returns {name: (reference file, restored file)}; a name is a path without suffix.

    Raises:
        InputError: a folder is missing or empty, files have no partner, cannot be read, or differ
            in size from their partner; they are listed.
    """
    truths, images = _by_name(reference), _by_name(restored)
    missing, superfluous = sorted(truths.keys() - images), sorted(images.keys() - truths)
    if missing or superfluous:
        samples = restored / "sample_000"
        several = f"; of several samples give one, such as {samples}" if samples.is_dir() else ""
        raise InputError(
            f"the folders do not match: {_listed(missing)} only in {reference}, "
            f"{_listed(superfluous)} only in {restored}{several}"
        )
    pairs = {name: (truths[name], images[name]) for name in sorted(truths)}
    problems = [problem for name, paths in pairs.items() if (problem := _problem(name, *paths))]
    if problems:
        raise InputError(f"{len(problems)} pairs cannot be compared: " + "; ".join(problems))
    return pairs


def _problem(name: str, truth: Path, image: Path) -> str | None:
    """What keeps two files from being compared."""
    try:
        sizes = [open_image(path).size for path in (truth, image)]
    except InputError as error:
        return str(error)
    if sizes[0] != sizes[1]:
        shown = " and ".join(f"{height}x{width}" for width, height in sizes)
        return f"{name}: reference and restored image differ in size ({shown})"
    if min(sizes[0]) < SSIM_WINDOW:
        return f"{name}: smaller than {SSIM_WINDOW}x{SSIM_WINDOW} pixels"
    return None


def evaluate_folders(
    reference: Path,
    restored: Path,
    metrics: Sequence[str],
    *,
    device: torch.device,
    lpips_net: str = "vgg",
) -> Evaluation:
    """Returns the scores of restored images against references of the same names.

    Args:
        reference: folder of true images, nested folders included.
        restored: folder of images to judge.
        metrics: some of `METRICS`.
        device: where LPIPS and Inception run.
        lpips_net: "vgg" or "alex".

    Raises:
        InputError: images without partner, unreadable, or of different sizes; they are listed.
    """
    pairs = pair_by_name(reference, restored)
    result = Evaluation()
    scores, fid = _build_metrics(metrics, device, lpips_net, result)
    if fid is not None and len(pairs) == 1:
        result.notes.append("FID is left out: it needs at least 2 images")
        fid = None
    if not scores and fid is None:
        raise InputError("none of the metrics can be computed: " + "; ".join(result.notes))
    for name, paths in tqdm(pairs.items(), desc="evaluating", unit="image"):
        truth, image = (load_image(path)[None] for path in paths)
        result.per_image[name] = {
            metric: score(image, truth).item() for metric, score in scores.items()
        }
        if fid is not None:
            fid.add(truth, image)
    for metric in scores:
        result.summary[metric] = _mean([values[metric] for values in result.per_image.values()])
    if fid is not None:
        result.summary["fid"] = {"mean": fid.value(), "standard_error": math.nan}
        result.protocols.append(fid.protocol)
        if len(pairs) < FEW_IMAGES:
            result.notes.append(
                f"FID of {len(pairs)} images is biased upwards (fewer than {FEW_IMAGES}): compare "
                "it only with FID of as many images"
            )
    return result


def _build_metrics(
    metrics: Sequence[str], device: torch.device, lpips_net: str, result: Evaluation
) -> tuple[dict[str, Callable[[Tensor, Tensor], Tensor]], Fid | None]:
    """The per-image metrics by name, and FID; what lacks its weights is noted and left out."""
    scores: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
    fid = None
    if "psnr" in metrics:
        scores["psnr"] = psnr
        result.protocols.append(PSNR_PROTOCOL)
    if "ssim" in metrics:
        scores["ssim"] = ssim
        result.protocols.append(SSIM_PROTOCOL)
    try:
        if "lpips" in metrics:
            scores["lpips"] = lpips = Lpips(lpips_net, device)
            result.protocols.append(lpips.protocol)
    except InputError as error:
        result.notes.append(f"LPIPS is left out: {error}")
    try:
        if "fid" in metrics:
            fid = Fid(device)
    except InputError as error:
        result.notes.append(f"FID is left out: {error}")
    return scores, fid


def _mean(values: list[float]) -> dict[str, float]:
    count, mean = len(values), sum(values) / len(values)
    if count < 2 or not math.isfinite(mean):  # PSNR of identical images is infinite
        return {"mean": mean, "standard_error": math.nan}
    return {"mean": mean, "standard_error": float(np.std(values, ddof=1)) / math.sqrt(count)}


def _by_name(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in list_files(folder):
        name = path.with_suffix("").as_posix()
        if name in files:
            raise InputError(f"{folder}: two images are called {name}")
        files[name] = folder / path
    return files


def _listed(names: list[str]) -> str:
    return f"{len(names)} images" + (f" ({', '.join(names)})" if names else "")
