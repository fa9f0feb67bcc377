"""What a run was begun with, and whether what is asked for now is still the same run."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from davi.config.section import Section
from davi.config.yaml_file import flatten, load_config, to_yaml
from davi.system.files import append_json, write_text
from davi.system.json_file import read_json

CONFIG, INPUTS, CHANGES = "config.yaml", "inputs.json", "changes.jsonl"
# What may differ between the parts of one run without making it another run. (Under a cool-down
# num_iterations shapes the learning rate, and may not.)
RESUMABLE_KEYS = (
    "train.num_iterations",
    "train.compile",
    "train.parallel",
    "train.shard_prior",
    "train.num_micro_batches",
    "train.on_not_finite",
    "train.log_every",
    "train.validate_every",
    "train.save_every",
    "train.keep_checkpoints",
    "train.save_in_background",
    "train.wandb_project",
    "network.use_checkpoint",
    "data.num_workers",
    "data.on_error",
)


@dataclass(frozen=True)
class RunRecord:
    """Configuration and inputs of a run, in its folder.

    Attributes:
        folder: of the run.
        config: what is asked for now.
        inputs: {key of the configuration: hash or fingerprint of what it names}.
    """

    folder: Path
    config: Section
    inputs: dict[str, Any]

    def exists(self) -> bool:
        """Returns whether a run was begun here."""
        return (self.folder / CONFIG).exists()

    def changes(self) -> dict[str, str]:
        """Returns {key: what differs} between the run as it was begun and as it is asked for.

        Raises:
            InputError: what was written of the run is damaged.
        """
        before = flatten(load_config(self.folder / CONFIG, type(self.config)))
        now = flatten(self.config)
        free = set(RESUMABLE_KEYS)
        if self.config.train.cooldown_iterations:
            free.remove("train.num_iterations")
        changes = {
            key: f"{key}: {before.get(key)} -> {now.get(key)}"
            for key in before | now
            if before.get(key) != now.get(key) and key not in free
        }
        inputs_before = read_json(self.folder / INPUTS, dict[str, Any])
        for key in inputs_before | self.inputs:
            old, new = inputs_before.get(key), self.inputs.get(key)
            if old != new:
                content = f"content of {key}: {_text(old)} -> {_text(new)}"
                changes[key] = f"{changes[key]}, {content}" if key in changes else content
        return changes

    def write(self) -> None:
        """Writes configuration and inputs, those that are asked for now."""
        text = json.dumps(self.inputs, indent=2) + "\n"
        write_text(self.folder / INPUTS, text, durable=True)
        write_text(self.folder / CONFIG, to_yaml(self.config), durable=True)

    def write_changed(self, changes: dict[str, str]) -> None:
        """Makes what is asked for now the run, and keeps a note of what has changed."""
        entry = {"time": time.strftime("%FT%T%z"), **changes}
        append_json(self.folder / CHANGES, entry)
        self.write()


def _text(value: Any) -> str:
    """A hash or fingerprint in one short line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
    return str(value)[:12]
