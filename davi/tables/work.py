"""A table being made: what every step of it needs to know."""

from dataclasses import dataclass
from pathlib import Path

from davi.system.world import World
from davi.tables.cache import Cache, Restored
from davi.tables.plan import Place, Plan


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work on a table, as one of its processes sees it.

    Attributes:
        plan: the table.
        cache: where its restorations are kept.
        folder: where it is written, and its times are kept.
        world: the processes; each step is a function that all of them must call.
    """

    plan: Plan
    cache: Cache
    folder: Path
    world: World

    def restored(self, place: Place, position: int, sample: int = 0) -> Restored | None:
        """Returns what is known of a restoration; None if it is missing or damaged."""
        return self.cache.read(self.plan.jobs[place].key(position, sample))

    def picture(self, place: Place, position: int, sample: int = 0) -> Path:
        """Returns where the PNG of a restoration is or would be."""
        return self.cache.picture(self.plan.jobs[place].key(position, sample))

    def is_deterministic(self, place: Place) -> bool:
        """Returns whether the second samples of all shown images are there and equal the first."""
        pairs = [
            (self.restored(place, position, 0), self.restored(place, position, 1))
            for position in range(self.plan.num_examples)
        ]
        return all(b is not None and a and a.picture_sha256 == b.picture_sha256 for a, b in pairs)
