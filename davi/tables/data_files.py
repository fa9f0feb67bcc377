"""A made table for programs: CSV with one line a number, JSON with every image's values."""

import csv
import io
from typing import Any

from pydantic import TypeAdapter

from davi.tables.layout import Layout
from davi.tables.result import Cell, Number, TableResult

FIELDS = ("row", "column", "metric", "ours", "error", "num_images", "paper", "absent")
BACKWARD = "nfe_backward"  # beside the metric "nfe", which counts forward evaluations
PICTURES = {"truth": True, "cells": {"__all__": {"pictures"}}}


def to_csv(layout: Layout) -> str:
    """Returns one line per row, column and metric, unrounded; what there is not stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row, column, metric in layout.entries:
        cell = layout.cell(row, column)
        reason = layout.reason((row, column, metric))
        writer.writerow(_line(cell, metric, cell.numbers.get(metric)) | {"absent": reason})
        if metric == "nfe" and metric in cell.numbers:
            writer.writerow(_line(cell, BACKWARD, Number(cell.backward)))
    return text.getvalue()


def to_json(result: TableResult) -> str:
    """Returns everything but the pictures, as JSON; infinite values and NaN become null."""
    content = vars(result) | {"cells": list(result.cells.values())}
    text = TypeAdapter(dict[str, Any]).dump_json(content, indent=1, exclude=PICTURES)
    return text.decode() + "\n"


def _line(cell: Cell, metric: str, number: Number | None) -> dict[str, Any]:
    line = {"row": cell.row, "column": cell.column, "metric": metric}
    if number is not None:
        line |= {"ours": number.value, "error": number.error, "num_images": cell.num_images}
    return line | {"paper": cell.paper.get(metric)}
