"""Prepares data sets as the release does: square images of one size, in splits, as PNG files."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from davi.data.decoding import stored_size
from davi.data.images import save_image
from davi.data.loader import load_each
from davi.data.selections import Split, require_disjoint
from davi.system.errors import SAME_NAME, InputError
from davi.system.files import disk_full_as_input_error, sha256_of
from davi.system.ledger import (
    FolderReport,
    Ledger,
    another_source,
    is_from,
    read_entries,
    require_outside,
)

PREPARATION = "centre crop to the short side, bilinear antialiased resize, 8-bit PNG"
# What the record says of an image: "sha256" of its file, "output_sha256" of the PNG file, and
# "short_side" in pixels of the original.
Entry = dict[str, Any]


@dataclass(frozen=True)
class _Job:
    """One image of a split, and what the record of it says.

    `entry` is that of an earlier command, once done the one that holds. It is None where there is
    none; once done, `reason` says why.
    """

    split: str
    index: int
    name: str
    source: Path
    entry: Entry | None
    is_new: bool = False
    reason: str = ""


class _Preparation(Dataset):
    """A data set indexed by jobs: does the job and gives it back with its outcome.

    A full disk is returned: raised in a worker process, it would reach the user wrapped in that
    process's traceback.
    """

    def __init__(self, splits: list[Split], output: Path) -> None:
        self.images = {split.name: split.images for split in splits}
        self.output = output

    def __getitem__(self, job: _Job) -> _Job | InputError:
        images, target = self.images[job.split], self.output / job.split / f"{job.name}.png"
        try:
            sha256 = images.sha256(job.index)
            known = job.entry is not None and job.entry["sha256"] == sha256
            if target.is_file() and job.entry is not None:
                if known and sha256_of(target) == job.entry["output_sha256"]:
                    return job
                if not known and not is_from(job.entry, job.source):
                    raise InputError(another_source(job.source, self.output))
            picture = images[job.index]
            short_side = min(stored_size(job.source))
        except (InputError, OSError) as error:
            return replace(job, entry=None, reason=str(error))
        try:
            with disk_full_as_input_error(self.output):
                save_image(picture, target)
        except InputError as error:
            return error
        except OSError as error:
            return replace(
                job, entry=None, reason=f"{target}: cannot be written ({error.strerror})"
            )
        entry = {"sha256": sha256, "output_sha256": sha256_of(target), "short_side": short_side}
        return replace(job, entry=entry, is_new=True)


def prepare_images(splits: list[Split], output: Path, num_workers: int) -> FolderReport:
    """Writes the images of every split, prints notes, and returns what became of each.

    OUTPUT/SPLIT/NAME.png   centre crop, resized as training does it, so that a network trained on
                            these files sees what it would see of the originals
    OUTPUT/manifest.jsonl   how the splits were chosen, and for each image the SHA-256 of its source
                            and of the PNG file

    Images that are in two splits, by the content of file or result, are left out of the later one
    and listed. Images that cannot be used, and files in the folders of the splits that belong to
    none of the images, are listed as failed.

    Args:
        splits: of data sets with the same image size.
        output: a new folder, or one this command has begun.
        num_workers: processes that decode; 0 does it in this one.

    Raises:
        InputError: the folder cannot be used, or the disk is full.
    """
    require_disjoint(splits)
    for split in splits:
        require_outside(output, split.images.origin)
    settings = {
        "preparation": PREPARATION,
        "image_size": splits[0].images.image_size,
        "splits": {split.name: split.description for split in splits},
    }
    with Ledger(output, settings) as ledger:
        return _prepare(splits, ledger, num_workers)


def _prepare(splits: list[Split], ledger: Ledger, num_workers: int) -> FolderReport:
    output, report = ledger.folder, FolderReport()
    jobs = _jobs(splits, output, report)
    entries: dict[str, dict[str, Entry]] = {split.name: {} for split in splits}
    for job in load_each(_Preparation(splits, output), jobs, num_workers, "preparing"):
        if isinstance(job, InputError):
            raise job
        if job.entry is None:
            report.failed.append((job.source, job.reason))
            continue
        entries[job.split][job.name] = job.entry
        if job.is_new:
            ledger.record(f"{job.split}/{job.name}", job.source, **job.entry)
            report.done += 1
        else:
            report.skipped += 1
    for split, name, reason in list(_overlaps(entries)):
        (output / split / f"{name}.png").unlink()
        del entries[split][name]
        print(f"left out: {split}/{name}: {reason}")
    report.failed += _strangers(entries, output)
    for split in splits:
        _describe(split, entries[split.name])
    return report


def _jobs(splits: list[Split], output: Path, report: FolderReport) -> list[_Job]:
    """What is to be done or looked at; files that would share the name of a result are listed."""
    recorded = (entry for entry in read_entries(output) if _is_complete(entry))
    before = {entry["name"]: entry for entry in recorded}
    jobs = []
    for split in splits:
        uses = Counter(split.images.name(index) for index in split.indices)
        for index in split.indices:
            name, source = split.images.name(index), split.images.source(index)
            if uses[name] > 1:
                report.failed.append((source, SAME_NAME))
                continue
            jobs.append(_Job(split.name, index, name, source, before.get(f"{split.name}/{name}")))
    return jobs


def _is_complete(entry: Entry) -> bool:
    """Whether a record says of a picture what is needed here."""
    return isinstance(entry.get("output_sha256"), str) and isinstance(entry.get("short_side"), int)


def _overlaps(entries: dict[str, dict[str, Entry]]) -> Iterator[tuple[str, str, str]]:
    """Yields (split, name, why) of images that are in an earlier split, too.

    They are the same file, or became the same picture; one that was compressed anew is another.
    """
    first: dict[str, str] = {}
    for split, own in entries.items():
        for name, entry in own.items():
            for kind, what in (("sha256", "file"), ("output_sha256", "picture")):
                if other := first.get(entry[kind]):
                    yield split, name, f"the same {what} as {other}"
                    break
        for name, entry in own.items():
            for kind in ("sha256", "output_sha256"):
                first[entry[kind]] = f"{split}/{name}"


def _strangers(entries: dict[str, dict[str, Entry]], output: Path) -> Iterator[tuple[Path, str]]:
    """Yields files that would be taken for images of a split."""
    for split, own in entries.items():
        for path in sorted(filter(Path.is_file, (output / split).rglob("*.png"))):
            if path.relative_to(output / split).with_suffix("").as_posix() not in own:
                yield path, "belongs to no image of the split: delete it"


def _describe(split: Split, entries: dict[str, Entry]) -> None:
    """Prints how many images a split has, and how many of them were enlarged."""
    size = split.images.image_size
    small = sum(entry["short_side"] < size for entry in entries.values())
    print(f"{split.name}: {len(entries)} of {len(split.indices)} images ({split.description})")
    if small:
        print(f"  note: smaller than {size} pixels and enlarged: {small}")
