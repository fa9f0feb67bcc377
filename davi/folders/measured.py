"""Whether measurements fit a generator, by what davi degrade noted about them."""

from pathlib import Path
from typing import Any

from davi.folders.degrading import recorded_operator
from davi.restorer import Restorer
from davi.system.errors import InputError
from davi.system.ledger import differences


def check_task(restorer: Restorer, source: Path, made_by: dict[str, Any], quiet: bool) -> None:
    """Refuses measurements of another task, and points out another operator or noise."""
    if made_by.get("task", restorer.task) != restorer.task:
        raise InputError(
            f"{source}: measurements of {made_by['task']}, this generator is for {restorer.task}"
        )
    recorded = {
        "operator": recorded_operator(restorer.config.operator),
        "noise": restorer.config.noise.model_dump(mode="json"),
    }
    found = differences(recorded, {key: made_by.get(key, recorded[key]) for key in recorded})
    if found and not quiet:
        print(f"note: measured otherwise than in training ({'; '.join(found)})")
