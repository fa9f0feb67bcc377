"""Writes a finished table."""

import dataclasses
import json
from pathlib import Path

from davi.files import write_text
from davi.tables.result import TableResult


def write_table(result: TableResult, folder: Path) -> None:
    """Writes FOLDER/table.json."""
    values = dataclasses.asdict(result)
    values["cells"] = {"/".join(place): cell for place, cell in values["cells"].items()}
    write_text(folder / "table.json", json.dumps(values, indent=2, default=str) + "\n")
