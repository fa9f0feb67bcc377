"""What every written form of a table shows at each of its places: rounded, marked, with notes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from davi.metrics.ensembles import LEVELS
from davi.tables.result import NOT_APPLICABLE, Cell, TableResult

BEST, SECOND = "best", "second"
HIGHER_IS_BETTER = frozenset({"psnr", "aligned_psnr", "ssim", "psnr_of_mean"})
NOMINAL = {
    **LEVELS,
    "detail": 0.0,
    "spread_error": 1.0,
    "residual": 1.0,
}  # nearest to these is better
COSTS = frozenset({"nfe", "seconds", "gmac"})
TITLES = {
    "psnr": "PSNR",
    "aligned_psnr": "aligned PSNR",
    "ssim": "SSIM",
    "detail": "detail",
    "prior_features": "prior features",
    "lpips": "LPIPS",
    "fid": "FID",
    "nfe": "NFE",
    "seconds": "s/image",
    "gmac": "GMAC",
    "coverage_50": "50 % coverage",
    "coverage_90": "90 % coverage",
    "spread_error": "spread/error",
    "crps": "CRPS",
    "energy_score": "energy score",
    "residual": "residual",
    "psnr_of_mean": "PSNR of mean",
}
DECIMALS = {
    "psnr": 2,
    "aligned_psnr": 2,
    "ssim": 3,
    "detail": 1,
    "prior_features": 4,
    "lpips": 3,
    "fid": 2,
    "nfe": 0,
    "gmac": 1,
    "coverage_50": 3,
    "coverage_90": 3,
    "spread_error": 3,
    "crps": 4,
    "energy_score": 4,
    "residual": 3,
    "psnr_of_mean": 2,
}
SIGNIFICANT = 3  # digits of seconds, which span six orders of magnitude

Place = tuple[str, str, str]  # row, column, metric


@dataclass(frozen=True)
class Entry:
    """What stands at a place of the table.

    Attributes:
        ours, error, paper: rounded; None where there is none. The paper's number is as printed.
        backward: how many of the evaluations were differentiated (of NFE alone), None if none.
        mark, paper_mark: BEST, SECOND or None.
        num_images: over how many images, if fewer than in other rows (not of costs, which are each
            image's own).
        note: number of the footnote that says why there is none of ours.
    """

    ours: str | None = None
    error: str | None = None
    paper: str | None = None
    backward: str | None = None
    mark: str | None = None
    paper_mark: str | None = None
    num_images: int | None = None
    note: int | None = None


@dataclass(frozen=True)
class Layout:
    """A made table as it is shown. The writers add nothing but their syntax.

    Attributes:
        result: the table.
    """

    result: TableResult

    @cached_property
    def notes(self) -> list[str]:
        """The numbered footnotes, the first one being number 1; each sentence once."""
        about_rows = map(self.result.footnotes.get, self.result.rows)
        return list(dict.fromkeys(filter(None, [*about_rows, *map(self.reason, self._places)])))

    @property
    def remarks(self) -> list[str]:
        """What is said below the table without a number."""
        about = self.result.footnotes.get("table")
        ours = "among our numbers and among the paper's" if self.quotes_paper else "of a column"
        signs = (
            "± is the standard error, in which all crops of a photograph of photos: count once; "
            "NFE: forward, + backward."
        )
        if self.quotes_paper:
            signs += " The paper's numbers stand beside or below ours, in italics."
        if not NOMINAL.keys().isdisjoint(self.result.metrics):
            signs += " An arrow to a number: the nearest to it is the best."
        ranks = (
            f"Best in bold, second best underlined, {ours}; rows over fewer images (n) and, for "
            "costs, rows that evaluate no network take no part."
        )
        return [*([about] if about else []), signs, ranks]

    @property
    def quotes_paper(self) -> bool:
        """Whether any number of the paper is shown."""
        return any(entry.paper for entry in self.entries.values())

    @cached_property
    def entries(self) -> dict[Place, Entry]:
        """{(row, column, metric): entry}, all of them."""
        ours = self._marks(self._ours)
        papers = self._marks(lambda cell, metric: cell.paper.get(metric))
        return {
            place: self._entry(place, ours.get(place), papers.get(place)) for place in self._places
        }

    def cell(self, row: str, column: str) -> Cell:
        """Returns a method on a task; one that holds nothing where the table has none."""
        return self.result.cells.get((row, column), Cell(row, column))

    def rows(self, column: str) -> dict[str, str]:
        """Returns {id: name} of the methods that are meant for a task."""
        return {
            row: name
            for row, name in self.result.rows.items()
            if self.cell(row, column).absent.get("all") != NOT_APPLICABLE
            or self.cell(row, column).paper
        }

    def reason(self, place: Place) -> str | None:
        """Returns why there is no number of ours in a place.

        None if there is one, no reason, or a task that the method is not meant for.
        """
        row, column, metric = place
        cell = self.cell(row, column)
        if metric in cell.numbers:
            return None
        reason = cell.absent.get(metric) or cell.absent.get("all")
        return None if reason == NOT_APPLICABLE else reason

    def row_note(self, row: str) -> int | None:
        """Returns the number of the footnote on a row's name."""
        return self._number(self.result.footnotes.get(row))

    def has_paper(self, column: str, metric: str) -> bool:
        """Whether the paper has a number in this place of any row."""
        return any(metric in self.cell(row, column).paper for row in self.result.rows)

    @property
    def _places(self) -> list[Place]:
        return list(product(self.result.rows, self.result.columns, self.result.metrics))

    def _number(self, note: str | None) -> int | None:
        return self.notes.index(note) + 1 if note else None

    def _entry(self, place: Place, mark: str | None, paper_mark: str | None) -> Entry:
        row, column, metric = place
        cell = self.cell(row, column)
        number, paper = cell.numbers.get(metric), cell.paper.get(metric)
        quoted = None if paper is None else _quoted(paper, metric)
        if number is None:
            note = self._number(self.reason(place))
            return Entry(paper=quoted, paper_mark=paper_mark, note=note)
        digits = decimals(number.value, metric)
        return Entry(
            ours=_text(number.value, digits),
            error=None if number.error is None else _text(number.error, digits),
            paper=quoted,
            backward=rounded(cell.backward, "nfe") if metric == "nfe" and cell.backward else None,
            mark=mark,
            paper_mark=paper_mark,
            num_images=None if metric in COSTS or not self._is_partial(cell) else cell.num_images,
        )

    def _is_partial(self, cell: Cell) -> bool:
        column = [self.cell(row, cell.column) for row in self.result.rows]
        return cell.num_images < max(max(other.num_images, other.wanted) for other in column)

    def _ours(self, cell: Cell, metric: str) -> float | None:
        number = cell.numbers.get(metric)
        no_network = metric in COSTS and not cell.forward
        if number is None or self._is_partial(cell) or no_network:
            return None
        return float(rounded(number.value, metric).replace(",", ""))

    def _marks(self, value_of: Callable[[Cell, str], float | None]) -> dict[Place, str]:
        """Best and second best of each column and metric; equal as shown is equally good."""
        marks = {}
        for column in self.result.columns:
            for metric in self.result.metrics:
                values = {
                    (row, column, metric): value
                    for row in self.result.rows
                    if (value := value_of(self.cell(row, column), metric)) is not None
                    and math.isfinite(value)
                }
                values = {at: _badness(value, metric) for at, value in values.items()}
                ranking = sorted(set(values.values()))
                if len(ranking) > 1:  # else there is nothing to choose from
                    names = {ranking[0]: BEST, ranking[1]: SECOND}
                    marks |= {at: names[value] for at, value in values.items() if value in names}
        return marks


def heading(metric: str) -> str:
    """Returns a metric's name with an arrow towards better values."""
    if metric in NOMINAL:
        return f"{TITLES[metric]} → {NOMINAL[metric]:g}"
    return f"{TITLES[metric]} {'↑' if metric in HIGHER_IS_BETTER else '↓'}"


def decimals(value: float, metric: str) -> int:
    """Returns how many decimals a value is shown with."""
    if metric in DECIMALS:
        return DECIMALS[metric]
    if not math.isfinite(value) or value == 0:
        return SIGNIFICANT - 1
    return max(0, SIGNIFICANT - 1 - math.floor(math.log10(abs(value))))


def rounded(value: float, metric: str) -> str:
    """Returns a value as it is shown, thousands apart."""
    return _text(value, decimals(value, metric))


def _badness(value: float, metric: str) -> float:
    """What is lower for better values, and equal for those that are shown as equally good."""
    if metric in NOMINAL:
        return round(abs(value - NOMINAL[metric]), DECIMALS[metric])
    return -value if metric in HIGHER_IS_BETTER else value


def _text(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _quoted(value: float, metric: str) -> str:
    """The paper's number: its costs have decimals of their own."""
    return f"{value:,.10g}" if metric in COSTS else rounded(value, metric)
