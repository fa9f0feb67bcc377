"""The learning rate as a function of the iteration, so that resuming needs no state of it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RateShape:
    """Linear warm-up, constant, linear cool-down; the paper and the release have a constant.

    Attributes:
        warmup: iterations of the rise.
        cooldown: iterations of the fall to 0 at the end.
        total: iterations of the run.
    """

    warmup: int
    cooldown: int
    total: int

    def factor(self, iteration: int) -> float:
        """Returns the share of the full learning rate at an iteration (0-based), in (0, 1]."""
        rise = (iteration + 1) / self.warmup if self.warmup else 1.0
        fall = (self.total - iteration) / self.cooldown if self.cooldown else 1.0
        return min(1.0, rise, fall)
