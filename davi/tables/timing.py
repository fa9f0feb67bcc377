"""Seconds per image, measured apart: all cells one after another, alone, in one run."""

import dataclasses
import json
import statistics
from collections.abc import Callable
from pathlib import Path

from pydantic import TypeAdapter
from tqdm import tqdm

from davi.system.files import write_text
from davi.system.world import World
from davi.tables.plan import Place
from davi.tables.running import Runner, Unit, place_of
from davi.tables.work import Work

FILE = "seconds.json"
ENOUGH_SECONDS, MOST_REPEATS = 1.0, 5  # a call of a millisecond is repeated, one of a minute is not


@dataclasses.dataclass(frozen=True)
class Seconds:
    """What the file holds.

    Attributes:
        on: the circumstances.
        seconds: {digest of a cell: seconds per image}.
    """

    on: str = "nothing: not measured yet"
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


def measure_seconds(work: Work, failed: dict[Place, str]) -> None:
    """Times every cell that can be run on its first image, unless all have been.

    Times are compared with each other, so that one new cell means measuring all of them again.

    Args:
        work: the table; the first process measures while the others wait. Its cache stays as it is.
        failed: cells that cannot be run.
    """
    jobs = {place: job for place, job in work.plan.jobs.items() if place not in failed}
    device = work.world.device

    def measure() -> None:
        if "seconds" not in work.plan.config.metrics or seconds_of(work).keys() >= jobs.keys():
            return
        runner = Runner(dataclasses.replace(work, world=World(0, 1, device)))
        seconds = {}
        for place, job in tqdm(jobs.items(), desc="timing", unit="cell"):
            unit = Unit(place, [(0, 0)])
            seconds[job.digest] = _median(lambda unit=unit: runner.time(unit))
        kept = Seconds(place_of(device), seconds)
        write_text(work.folder / FILE, json.dumps(dataclasses.asdict(kept), indent=1) + "\n")

    work.world.on_first(measure)


def seconds_of(work: Work) -> dict[Place, float]:
    """Returns the seconds per image of the cells that have been timed."""
    kept, jobs = _read(work.folder).seconds, work.plan.jobs
    return {place: kept[job.digest] for place, job in jobs.items() if job.digest in kept}


def timed_on(folder: Path) -> str:
    """Returns the circumstances that the seconds belong to."""
    return _read(folder).on


def _read(folder: Path) -> Seconds:
    try:
        return TypeAdapter(Seconds).validate_json((folder / FILE).read_bytes())
    except (OSError, ValueError):  # missing or damaged: to be measured
        return Seconds()


def _median(call: Callable[[], float]) -> float:
    """The median of as many calls as it takes to fill a second."""
    call()  # loads weights, chooses kernels
    seconds: list[float] = []
    while len(seconds) < MOST_REPEATS and sum(seconds) < ENOUGH_SECONDS:
        seconds.append(call())
    return statistics.median(seconds)
