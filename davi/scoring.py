"""From a folder of measurements to restorations that can be scored."""

from pathlib import Path
from typing import Any

from davi.errors import InputError
from davi.files import make_folder
from davi.restorer import Restorer
from davi.restoring import restore_folder
from davi.world import World

SUMMARY = "summary.json"


def restore_measured(
    restorer: Restorer,
    origin: dict[str, Any],
    measured: Path,
    folder: Path,
    *,
    rounding: str,
    batch_size: int,
    seed: int,
) -> None:
    """Restores every measurement of a folder of degrade.py, one sample each.

    Args:
        restorer: the generator.
        origin: which network this is, for the record.
        measured: the folder.
        folder: for the restorations, see `restore_folder`.
        rounding: of the pictures to 8 bits.
        batch_size: measurements per network evaluation.
        seed: of the samples.

    Raises:
        InputError: some measurement cannot be restored, so that a mean would miss it.
    """
    report = restore_folder(
        restorer,
        measured,
        folder,
        num_samples=1,
        batch_size=batch_size,
        seed=seed,
        rounding=rounding,
        origin=origin,
        world=World(0, 1, restorer.device),
    )
    report.print_summary("restored")
    if report.failed:
        raise InputError(f"{measured}: {len(report.failed)} measurements cannot be restored")


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
