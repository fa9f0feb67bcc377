"""Seconds per image, measured apart: all cells one after another, alone, in one run."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from davi.system.files import write_text
from davi.system.world import World
from davi.tables.cache import Cache
from davi.tables.plan import Place, Plan
from davi.tables.running import Runner, Unit, place_of

FILE = "seconds.json"
ENOUGH_SECONDS, MOST_REPEATS = 1.0, 5  # a call of a millisecond is repeated, one of a minute is not


def measure_seconds(
    plan: Plan, cache: Cache, folder: Path, world: World, failed: dict[Place, str]
) -> None:
    """Times every cell that can be run on its first image, unless all have been.

    Times are compared with each other, so that one new cell means measuring all of them again.

    Args:
        plan: the table.
        cache: of the table; nothing is added to it.
        folder: where the times are kept.
        world: the processes; the first one measures while the others wait. All must call.
        failed: cells that cannot be run.
    """
    places = [place for place in plan.jobs if place not in failed]

    def measure() -> None:
        known = seconds_of(plan, folder)
        if "seconds" not in plan.config.metrics or known.keys() >= set(places):
            return
        runner = Runner(plan, cache, World(0, 1, world.device))
        seconds = {}
        for place in tqdm(places, desc="timing", unit="cell"):
            unit = Unit(place, ((0, 0),))
            seconds[plan.jobs[place].digest] = _median(lambda unit=unit: runner.time(unit))
        kept = {"on": place_of(world.device), "seconds": seconds}
        write_text(folder / FILE, json.dumps(kept, indent=1) + "\n")

    world.on_first(measure)


def seconds_of(plan: Plan, folder: Path) -> dict[Place, float]:
    """Returns the seconds per image of the cells that have been timed."""
    kept = _read(folder).get("seconds", {})
    return {place: kept[job.digest] for place, job in plan.jobs.items() if job.digest in kept}


def timed_on(folder: Path) -> str:
    """Returns the circumstances that the seconds belong to."""
    return _read(folder).get("on", "nothing: not measured yet")


def _read(folder: Path) -> dict:
    try:
        kept = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # missing or damaged: to be measured
        return {}
    return kept if isinstance(kept, dict) else {}


def _median(call: Callable[[], float]) -> float:
    """The median of as many calls as it takes to fill a second."""
    call()  # loads weights, chooses kernels
    seconds: list[float] = []
    while len(seconds) < MOST_REPEATS and sum(seconds) < ENOUGH_SECONDS:
        seconds.append(call())
    return statistics.median(seconds)
