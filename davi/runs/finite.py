"""Watches losses and gradients for NaN and infinity without waiting for the device."""

import torch
from torch import Tensor


class FiniteWatch:
    """Remembers which terms were not finite, and since when; on the device, until it is asked."""

    def __init__(self) -> None:
        self._first: dict[str, Tensor] = {}
        self._count: Tensor | None = None

    def observe(self, terms: dict[str, Tensor], iteration: int) -> None:
        """Takes note of the scalars of an iteration."""
        finite = torch.isfinite(torch.stack([value.detach().float() for value in terms.values()]))
        for name, good in zip(terms, finite, strict=True):
            first = self._first.get(name, good.new_full((), -1, dtype=torch.int64))
            self._first[name] = torch.where(good | (first >= 0), first, iteration)
        bad = 1 - finite.all().long()
        self._count = bad if self._count is None else self._count + bad

    def report(self) -> dict[str, int]:
        """Returns {term: first iteration in which it was not finite}; waits for the device."""
        if not self._first:
            return {}
        iterations = torch.stack(list(self._first.values())).tolist()
        return {name: at for name, at in zip(self._first, iterations, strict=True) if at >= 0}

    def take_count(self) -> int:
        """Returns in how many iterations a term was not finite, and begins anew; waits."""
        count = 0 if self._count is None else int(self._count)
        self._first, self._count = {}, None
        return count
