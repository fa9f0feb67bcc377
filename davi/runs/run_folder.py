"""The folder of one training run: configuration, checkpoints, statistics, panels.

config.yaml           the resolved configuration
inputs.json           hashes of the files and fingerprints of the data sets it was begun with
changes.jsonl         what was changed in a run on purpose, and when
checkpoints/          full training states, see `checkpoint_store`
stats.jsonl           one line per logged iteration, the same for an unbroken and a resumed run
panels/*.png          validation pictures
tensorboard/          the same curves and pictures, with speed
.lock                 held by the process that trains here
not_finite.json       what to repeat, if a loss or gradient was not finite
"""

import contextlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from davi.build import with_mask_inside
from davi.config.section import Section
from davi.config.yaml_file import flatten
from davi.runs.checkpoint_store import CheckpointStore
from davi.runs.record import INPUTS, RunRecord
from davi.runs.statistics import RunStatistics
from davi.system.errors import InputError
from davi.system.files import (
    LOCK,
    disk_full_as_input_error,
    folder_lock,
    make_folder,
    remove_leftovers,
    write_text,
)


class RunFolder:
    """Opens the folder of a run, new or to go on in. One process of a job writes; it opens it.

    Args:
        path: the folder; created if needed. An existing one must hold the same run.
        config: the run's configuration.
        inputs: {key of the configuration: hash or fingerprint of what it names}.
        allowed_changes: keys that may differ from those the run was begun with.

    Attributes:
        record: what the run was begun with.
        statistics: its numbers, curves and pictures.
        store: its checkpoints.

    Raises:
        InputError: the folder is not writable, is in use for something else, or holds a run with
            another configuration or other inputs; the differing keys are listed.
    """

    def __init__(
        self,
        path: Path,
        config: Section,
        inputs: dict[str, Any],
        allowed_changes: Collection[str] = (),
    ) -> None:
        self.path = path
        self.record = RunRecord(path, config, inputs)
        self.statistics = RunStatistics(path, config.train.wandb_project, flatten(config))
        # Now, since the mask's file may change or go while training lasts.
        self._saved_config = with_mask_inside(config.model_dump(mode="json"))
        begun = self.record.exists()
        if path.is_dir() and not begun and not self._is_barely_begun():
            raise InputError(f"{path}: exists and holds no run; choose another --run-dir")
        changes = self.record.changes() if begun else {}
        if refused := [text for key, text in changes.items() if key not in allowed_changes]:
            raise InputError(
                f"{path}: holds a run with another configuration or other data "
                f"({'; '.join(refused)}); undo the change, choose another --run-dir, or go on with "
                f"it by --allow-changes {' '.join(changes)}"
            )
        self._allowed = changes
        with disk_full_as_input_error(path.parent):
            make_folder(path / "checkpoints")
            make_folder(path / "panels")
            if not changes:
                self.record.write()
        self.store = CheckpointStore(path / "checkpoints", config.train.keep_checkpoints)

    def take_over_changes(self) -> None:
        """Makes the allowed changes those of the run; to be called once it can go on with them."""
        if self._allowed:
            with disk_full_as_input_error(self.path):
                self.record.write_changed(self._allowed)
            self._allowed = {}

    def _is_barely_begun(self) -> bool:
        """Whether a folder without config.yaml is empty, or of a run killed before it wrote one."""
        names = {entry.name for entry in self.path.iterdir() if not entry.name.endswith(".tmp")}
        return names <= {"checkpoints", "panels", INPUTS, LOCK}

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Within the block no other process trains in this folder.

        Raises:
            InputError: another one does.
        """
        busy = "another process is training there; wait for it, or choose another --run-dir"
        with folder_lock(self.path, busy):
            remove_leftovers(self.path)
            yield

    def find_newest(self) -> Path | None:
        """Returns the newest sound checkpoint, if there is one; says which are damaged."""
        path, messages = self.store.find_newest()
        for message in messages:
            print(message)
        return path

    def save(self, iteration: int, state: dict[str, Any], score: float | None) -> None:
        """Writes the training state after `iteration` iterations, see `CheckpointStore.save`."""
        content = {
            "iteration": iteration,
            "config": self._saved_config,
            "inputs": self.record.inputs,
            **state,
        }
        self.statistics.flush()
        self.store.save(iteration, content, score)

    def record_not_finite(self, report: dict[str, Any]) -> Path:
        """Writes what is needed to repeat a step that was not finite, and returns the file."""
        path = self.path / "not_finite.json"
        write_text(path, json.dumps(report, indent=2) + "\n")
        return path
