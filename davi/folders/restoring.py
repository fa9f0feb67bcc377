"""Restores a folder of measurements and writes the images.

Threads read ahead and write behind while the network runs in between.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler
from tqdm import tqdm

from davi.data.images import require_picture, save_array, save_image
from davi.data.measurement_files import (
    Measurements,
    find_measurements,
    measurement_folder,
    num_pixels,
    read_mask,
    read_measurement,
)
from davi.folders.calibrating import KnownImages, kept_calibration, open_source
from davi.folders.measured import check_task
from davi.metrics.uncertainty import Calibration, interval, require_samples, view_of_deviation
from davi.operators.inpainting import Inpainting
from davi.operators.operator import Operator, RandomOperator
from davi.pictures.form import PLAIN, PNG, Form
from davi.restorer import Restorer
from davi.system.errors import InputError
from davi.system.files import disk_full_as_input_error, sha256_of
from davi.system.ledger import FolderReport, Ledger
from davi.system.pipeline import file_threads, map_ahead
from davi.system.world import World


@dataclass(frozen=True)
class _Item:
    """A measurement that is to be restored, later with its samples (N, C, H, W).

    Attributes:
        hashes: of its content, see `Ledger.is_done`.
        y: what was measured; None of a large picture, which is read when its turn comes.
    """

    name: str
    hashes: dict[str, str]
    y: Tensor | None = None
    samples: Tensor | None = None


_Failed = tuple[Path, str]  # a file, and why it cannot be restored
LARGE = 1 << 20  # pixels of a result, all samples together; larger ones are held one at a time
DONE_BEFORE = None  # what reading gives for a measurement that needs no work


def restore_folder(
    restorer: Restorer,
    source: Path,
    output: Path,
    *,
    num_samples: int,
    batch_size: int,
    seed: int,
    masks: Path | None = None,
    form: Form = PLAIN,
    level: float | None = None,
    calibrated_by: Path | None = None,
    world: World,
) -> FolderReport:
    """Restores every measurement of a folder (or one file) and returns what became of each.

    Of several processes each takes its share of the names; the report is that of all.

    With one sample per measurement: OUTPUT/NAME.png. With several:
    OUTPUT/sample_000/NAME.png ... and their mean and standard deviation, OUTPUT/mean/NAME.png and
    OUTPUT/std/NAME.npy (on the [-1, 1] scale) with a picture beside it, in which the largest
    deviation of the image is white. With `level`: OUTPUT/low/NAME.png and OUTPUT/high/NAME.png,
    and exact .npy beside them.

    Args:
        restorer: the generator.
        source: a folder or a file, see `measurement_files`.
        output: a new folder, or one that this command has begun.
        num_samples: posterior samples per measurement.
        batch_size: measurements, or pieces of larger ones, per network evaluation; without
            influence on the results.
        seed: of the samples.
        masks: inpainting only: one mask for all, or a folder with NAME.png for each.
        form: of the pictures' files; those named .png here have another suffix where it says so.
        level: of the interval of every pixel; None for none.
        calibrated_by: a folder of davi degrade on which the intervals are calibrated, or the
            calibration.json of an earlier command; one is written beside the results.
        world: the processes that share the folder; all must call.

    Raises:
        InputError: one of the folders cannot be used, the measurements are of another task, or
            there are too few samples for the level.
    """
    require_picture(restorer.image_shape[0], "this generator")
    source, made_by = measurement_folder(source)
    check_task(restorer, source, made_by, quiet=not world.is_first)
    if level is not None:
        require_samples(level, num_samples, calibrated=calibrated_by is not None)
    # One process looks: in a folder that changes, each might find others.
    found = world.on_first(lambda: find_measurements(source))
    settings = {
        **restorer.settings,
        "num_samples": num_samples,
        "seed": seed,
        **_mask_settings(masks, restorer.task),
        **form.settings,
        **({} if level is None else {"interval": level}),
    }
    known = None
    if calibrated_by is not None:
        known = open_source(calibrated_by, restorer, level, num_samples, world)
        settings["calibration_sha256"] = known.sha256
    report = FolderReport(failed=found.refused if world.is_first else [])
    total = len(range(world.rank, len(found.suffixes), world.size))
    with Ledger(output, settings, source if source.is_dir() else None, world) as ledger:
        how = {"num_samples": num_samples, "batch_size": batch_size, "seed": seed}
        factor = _factor(output, known, restorer, world, level=level, **how)
        look = {"masks": masks, "form": form, "level": level, "factor": factor}
        job = _FolderJob(restorer, found, ledger, **how, **look)
        with tqdm(total=total, desc="restoring", unit="image", disable=not world.is_first) as bar:
            job.run(islice(found.suffixes, world.rank, None, world.size), report, bar)
        _note_other_holes(job, world)
        return FolderReport.of_all(world.gather(report))


def _factor(output: Path, known: KnownImages | Calibration | None, *who: Any, **how: Any) -> float:
    """By which intervals are widened, see `kept_calibration`; 1 without a calibration."""
    return 1.0 if known is None else kept_calibration(output, known, *who, **how).factor


def _note_other_holes(job: "_FolderJob", world: World) -> None:
    others = sum(world.gather(len(job.other_holes)))
    if others and world.is_first:
        print(
            f"note: {others} images with a hole elsewhere than in training, which the "
            "generator has not learned to fill"
        )


def restore_measured(restorer: Restorer, measured: Path, output: Path, **options: Any) -> None:
    """Restores every measurement of a folder of davi degrade.

    Args:
        restorer: the generator.
        measured: the folder.
        output: a new folder, or one that this command has begun.
        options: `num_samples`, `batch_size`, `seed` and `form` of `restore_folder`.

    Raises:
        InputError: some measurement cannot be restored, so that a mean would miss it.
    """
    world = World(0, 1, restorer.device)
    report = restore_folder(restorer, measured, output, world=world, **options)
    report.print_summary("restored")
    if report.failed:
        raise InputError(f"{measured}: {len(report.failed)} measurements cannot be restored")


def _mask_settings(masks: Path | None, task: str) -> dict[str, str]:
    """What the settings say of the masks; of those of single images the entries of these do."""
    if masks is None:
        return {}
    if task != "inpainting":
        raise InputError(f"{masks}: masks are for inpainting, this generator is for {task}")
    return {"masks": "one for each image"} if masks.is_dir() else {"mask_sha256": sha256_of(masks)}


@dataclass(frozen=True)
class _FolderJob:
    """The work on one name, in steps, and how the steps overlap."""

    restorer: Restorer
    found: Measurements
    ledger: Ledger
    num_samples: int
    batch_size: int
    seed: int
    masks: Path | None
    form: Form
    level: float | None
    factor: float
    other_holes: list[str] = field(default_factory=list)  # names; filled by the threads that read

    def run(self, names: Iterable[str], report: FolderReport, bar: tqdm) -> None:
        """Restores the names, in order, and counts them."""
        window = 2 * self.batch_size
        with file_threads() as executor:
            outcomes = map_ahead(executor, self.read, names, window)
            to_be_done = _to_be_done(outcomes, report, bar)
            batches = BatchSampler(to_be_done, self.batch_size, drop_last=False)
            progress = not bar.disable
            restored = (item for batch in batches for item in self.restore(batch, progress))
            for outcome in map_ahead(executor, self.write, restored, window):
                if isinstance(outcome, _Item):
                    path = self.found.path(outcome.name)
                    self.ledger.record(outcome.name, path, **outcome.hashes)
                    report.done += 1
                else:
                    report.failed.append(outcome)
                bar.update()

    def read(self, name: str) -> _Item | _Failed | None:
        """Returns what is to be restored, why it cannot be, or `DONE_BEFORE`."""
        path = self.found.path(name)
        try:
            hashes = {"sha256": sha256_of(path)}
            if self.masks is not None and self.masks.is_dir():
                hashes["mask_sha256"] = sha256_of(self._mask(name))
            if self.ledger.is_done(name, path, self.results(name), **hashes):
                return DONE_BEFORE
            y = None if self._is_large(path) else self._measurement(name)
        except (InputError, OSError) as error:
            return path, str(error)
        return _Item(name, hashes, y)

    def _is_large(self, path: Path) -> bool:
        """Whether the result of a file is not to be held beside others."""
        if not self.restorer.operator.same_everywhere:
            return False
        shapes = (self.restorer.image_shape, self.restorer.measurement_shape)
        enlarged, own = (math.prod(shape[1:]) for shape in shapes)
        return self.num_samples * num_pixels(path) * enlarged > LARGE * own

    def _measurement(self, name: str) -> Tensor:
        """Returns the measurement of a name, with the hole of its mask.

        Raises:
            InputError, OSError: it cannot be restored.
        """
        restorer = self.restorer
        any_size = restorer.operator.same_everywhere
        y = read_measurement(self.found.path(name), restorer.operator, any_size)
        if (mask := self._mask(name)) is not None:
            kept = read_mask(mask, restorer.restored_size(tuple(y.shape)))
            if _is_another_hole(kept, restorer.operator):
                self.other_holes.append(name)
            y = y * kept
        return y

    def _mask(self, name: str) -> Path | None:
        """Where the mask of a measurement is, if there is one."""
        own = self.masks is not None and self.masks.is_dir()
        return self.masks / f"{name}.png" if own else self.masks

    def restore(self, batch: list[_Item], progress: bool) -> Iterator[_Item | _Failed]:
        """Yields the items with their samples, those of one shape restored together."""
        by_shape = groupby(batch, lambda item: item.name if item.y is None else item.y.shape)
        for _, items in by_shape:
            yield from self._restore(list(items), progress)

    def _restore(self, items: list[_Item], progress: bool) -> Iterator[_Item | _Failed]:
        names = [item.name for item in items]
        try:
            y = [item.y if item.y is not None else self._measurement(item.name) for item in items]
        except (InputError, OSError) as error:
            yield self.found.path(names[0]), str(error)
            return
        samples = self.restorer.restore(
            torch.stack(y), self.num_samples, self.seed, names, self.batch_size, progress
        )
        for item, own_samples in zip(items, samples.unbind(dim=1), strict=True):
            yield replace(item, y=None, samples=own_samples)

    def write(self, item: _Item | _Failed) -> _Item | _Failed:
        """Writes the samples (N, C, H, W) of an item, and returns it, or why it cannot."""
        if not isinstance(item, _Item):
            return item
        try:
            with disk_full_as_input_error(self.ledger.folder):
                self._write(item.samples, self.results(item.name))
        except OSError as error:
            return self.found.path(item.name), str(error)
        return replace(item, samples=None)

    def _write(self, samples: Tensor, results: list[Path]) -> None:
        for sample, path in zip(samples, results, strict=False):
            self.form.save(sample, path)
        if len(samples) > 1:
            mean, view_of_std, exact_std, *ends = results[len(samples) :]
            self.form.save(samples.mean(dim=0), mean)
            std = samples.std(dim=0)
            save_image(view_of_deviation(std), view_of_std)
            save_array(std, exact_std)
            if self.level is not None:
                bounds = interval(samples, self.level, self.factor)
                for bound, view, exact in zip(bounds, ends[::2], ends[1::2], strict=True):
                    self.form.save(bound, view)
                    save_array(bound, exact)

    def results(self, name: str) -> list[Path]:
        """Returns where the samples of a measurement go, their mean, deviation and interval."""
        output, file = self.ledger.folder, name + self.form.suffix(self.found.suffixes[name])
        if self.num_samples == 1:
            return [output / file]
        samples = [output / f"sample_{number:03d}" / file for number in range(self.num_samples)]
        std = [output / "std" / f"{name}{suffix}" for suffix in (PNG, ".npy")]
        results = [*samples, output / "mean" / file, *std]
        if self.level is not None:
            folders = (output / "low", output / "high")
            results += [folder / end for folder in folders for end in (file, f"{name}.npy")]
        return results


def _is_another_hole(mask: Tensor, trained: Operator | RandomOperator) -> bool:
    """Whether the hole of a mask (H, W) is not the one of the training, if that had one only."""
    if not isinstance(trained, Inpainting):
        return False
    return not torch.equal(mask, trained.singular_values.bool().cpu())


def _to_be_done(
    outcomes: Iterable[_Item | _Failed | None], report: FolderReport, bar: tqdm
) -> Iterator[_Item]:
    """Yields what is to be restored; counts what is done already, lists what cannot be read."""
    for outcome in outcomes:
        if isinstance(outcome, _Item):
            yield outcome
            continue
        if outcome is DONE_BEFORE:
            report.skipped += 1
        else:
            report.failed.append(outcome)
        bar.update()
