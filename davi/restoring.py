"""Restores a folder of measurements and writes the images."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from davi.errors import InputError
from davi.files import sha256_of
from davi.images import save_array, save_image
from davi.ledger import FolderReport, Ledger
from davi.measurement_files import (
    find_measurements,
    measurement_folder,
    read_mask,
    read_measurement,
)
from davi.restorer import Restorer


@dataclass(frozen=True)
class _Item:
    name: str
    path: Path
    sha256: str
    y: Tensor


def restore_folder(
    restorer: Restorer,
    source: Path,
    output: Path,
    *,
    num_samples: int,
    batch_size: int,
    seed: int,
    masks: Path | None = None,
    origin: dict[str, Any],
) -> FolderReport:
    """Restores every measurement of a folder (or one file) and returns what became of each.

    With one sample per measurement: OUTPUT/NAME.png. With several:
    OUTPUT/sample_000/NAME.png ... and their mean and standard deviation, OUTPUT/mean/NAME.png and
    OUTPUT/std/NAME.npy (on the [-1, 1] scale) with a picture beside it, in which the largest
    deviation of the image is white.

    Args:
        restorer: the generator.
        source: a folder or a file, see `measurement_files`.
        output: a new folder, or one that this command has begun.
        num_samples: posterior samples per measurement.
        batch_size: measurements per network evaluation; without influence on the results.
        seed: of the samples.
        masks: inpainting only: one mask for all, or a folder with NAME.png for each.
        origin: what else determines the results, for the record.

    Raises:
        InputError: one of the folders cannot be used, or the measurements are of another task.
    """
    source, made_by = measurement_folder(source)
    _check_task(restorer, source, made_by)
    if masks is not None and restorer.task != "inpainting":
        raise InputError(
            f"{masks}: masks are for inpainting, this generator is for {restorer.task}"
        )
    found, refused = find_measurements(source)
    settings = {**origin, "num_samples": num_samples, "seed": seed, "masks": masks and str(masks)}
    ledger = Ledger(output, settings, source if source.is_dir() else None)
    report = FolderReport(failed=refused)
    with tqdm(total=len(found), desc="restoring", unit="image") as bar:
        readable = _readable(found, restorer, ledger, report, bar, num_samples, masks)
        for batch in _batches(readable, batch_size):
            y, names = torch.stack([item.y for item in batch]), [item.name for item in batch]
            samples = restorer.restore(y, num_samples, seed, names)
            for item, own_samples in zip(batch, samples.unbind(dim=1), strict=True):
                _write(own_samples, output, item.name)
                ledger.record(item.name, item.path, item.sha256)
            report.done += len(batch)
            bar.update(len(batch))
    return report


def _check_task(restorer: Restorer, source: Path, made_by: dict[str, Any]) -> None:
    """Refuses measurements of another task, and points out another operator or noise."""
    if made_by.get("task", restorer.task) != restorer.task:
        raise InputError(
            f"{source}: measurements of {made_by['task']}, this generator is for {restorer.task}"
        )
    for key in ("operator", "noise"):
        trained = getattr(restorer.config, key).model_dump(mode="json")
        if made_by.get(key, trained) != trained:
            print(f"note: {key} of the measurements is {made_by[key]}, of the training {trained}")


def _readable(
    found: dict[str, Path],
    restorer: Restorer,
    ledger: Ledger,
    report: FolderReport,
    bar: tqdm,
    num_samples: int,
    masks: Path | None,
) -> Iterator[_Item]:
    """Yields what is to be restored; counts what is done already, lists what cannot be read."""
    for name, path in found.items():
        try:
            sha256 = sha256_of(path)
            if ledger.is_done(name, sha256, _results(ledger.folder, name, num_samples)):
                report.skipped += 1
                bar.update()
                continue
            y = read_measurement(path, restorer.measurement_shape)
            if masks is not None:
                mask_path = masks / f"{name}.png" if masks.is_dir() else masks
                y = y * read_mask(mask_path, restorer.image_shape[1:])
        except (InputError, OSError) as error:
            report.failed.append((path, str(error)))
            bar.update()
            continue
        yield _Item(name, path, sha256, y)


def _batches(items: Iterator[_Item], batch_size: int) -> Iterator[list[_Item]]:
    batch: list[_Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _results(output: Path, name: str, num_samples: int) -> list[Path]:
    """Where the samples of a measurement go."""
    if num_samples == 1:
        return [output / f"{name}.png"]
    return [output / f"sample_{number:03d}" / f"{name}.png" for number in range(num_samples)]


def _write(samples: Tensor, output: Path, name: str) -> None:
    """Writes the (N, C, H, W) samples of one measurement."""
    for sample, path in zip(samples, _results(output, name, len(samples)), strict=True):
        _save(sample, path)
    if len(samples) == 1:
        return
    _save(samples.mean(dim=0), output / "mean" / f"{name}.png")
    std = samples.std(dim=0)
    brightness = std.mean(dim=0, keepdim=True)
    view = 2 * brightness / brightness.max().clamp(min=1e-6) - 1
    _save(view, output / "std" / f"{name}.png")
    save_array(std, output / "std" / f"{name}.npy")


def _save(image: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(image, path)
