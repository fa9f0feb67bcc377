"""What the charts of calibration show: ranks of the truth, and how often intervals hold it."""

import torch

from davi.metrics.ensembles import covered
from davi.tables.layout import Layout


def ranks_of(layout: Layout, column: str) -> dict[str, list[float]]:
    """Returns {row: shares of the ranks 0 .. N} of a task, of the rows whose samples are scored."""
    ranks = {row: layout.cell(row, column).ranks for row in layout.result.rows}
    return {row: shares for row, shares in ranks.items() if shares}


def reliability(ranks: list[float]) -> list[tuple[float, float]]:
    """Returns (level, share of the truths inside) of the central intervals that N samples have.

    From level 0 to (N - 1) / (N + 1). What `covered` gives is straight between two of them.

    Args:
        ranks: shares of the ranks 0 .. N.
    """
    count = len(ranks)
    levels = [0.0, *((count - 2 * k) / count for k in reversed(range(1, (count + 1) // 2)))]
    shares = torch.tensor(ranks, dtype=torch.float64)
    return [(level, covered(shares, level).item()) for level in levels]
