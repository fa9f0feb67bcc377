"""A made table for programs: CSV with one line a number, JSON with every image's values."""

import csv
import io
import json
import math
from dataclasses import asdict
from typing import Any

from davi.tables.layout import Layout
from davi.tables.result import Cell, Number, TableResult

FIELDS = ("row", "column", "metric", "ours", "error", "num_images", "paper", "absent")
BACKWARD = "nfe_backward"  # beside the metric "nfe", which counts forward evaluations


def to_csv(layout: Layout) -> str:
    """Returns one line per row, column and metric, unrounded; what there is not stays empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for row, column, metric in layout.entries:
        cell = layout.result.cells.get((row, column), Cell(row, column))
        writer.writerow(_line(cell, metric, cell.numbers.get(metric)))
        if metric == "nfe" and metric in cell.numbers:
            writer.writerow(_line(cell, BACKWARD, Number(cell.backward)))
    return text.getvalue()


def to_json(result: TableResult) -> str:
    """Returns everything but the pictures, as JSON; infinite values and NaN become null."""
    cells = []
    for cell in result.cells.values():
        values = asdict(cell)
        del values["pictures"]
        cells.append(values)
    content = {
        "title": result.title,
        "rows": result.rows,
        "columns": result.columns,
        "metrics": result.metrics,
        "cells": cells,
        "footnotes": result.footnotes,
        "config": result.config,
        "facts": result.facts,
    }
    return json.dumps(_finite(content), indent=1, ensure_ascii=False, default=str) + "\n"


def _line(cell: Cell, metric: str, number: Number | None) -> list[Any]:
    paper = cell.paper.get(metric, "")
    if number is None:
        reason = cell.absent.get(metric) or cell.absent.get("all", "")
        return [cell.row, cell.column, metric, "", "", "", paper, reason]
    error = "" if number.error is None else number.error
    return [cell.row, cell.column, metric, number.value, error, cell.num_images, paper, ""]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
