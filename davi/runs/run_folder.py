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
import hashlib
import importlib.util
import json
import math
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from davi.config.section import Section
from davi.config.yaml_file import flatten, load_config, to_yaml
from davi.data.images import save_image, to_uint8
from davi.runs.checkpoint_store import CheckpointStore
from davi.system.errors import InputError
from davi.system.files import disk_full_as_input_error, flush_to_disk, make_folder, write_text

INPUTS, LOCK = "inputs.json", ".lock"
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


class RunFolder:
    """Owns everything a run writes. One process of a job writes; it opens the folder.

    Args:
        path: the folder; created if needed. An existing one must hold the same run.
        config: the run's configuration.
        inputs: {key of the configuration: hash or fingerprint of what it names}.
        allowed_changes: keys that may differ from those the run was begun with.

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
        self.config = config
        self.inputs = inputs
        kept = path / "config.yaml"
        if config.train.wandb_project is not None and importlib.util.find_spec("wandb") is None:
            raise InputError("train.wandb_project is set: pip install 'davi[tracking]' first")
        if path.is_dir() and not kept.exists() and not self._is_barely_begun():
            raise InputError(f"{path}: exists and holds no run; choose another --run-dir")
        changes = self._changes() if kept.exists() else {}
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
                self._write_down()
        self.store = CheckpointStore(path / "checkpoints", config.train.keep_checkpoints)
        self._writer: SummaryWriter | None = None
        self._purge_step: int | None = None

    def take_over_changes(self) -> None:
        """Makes the allowed changes those of the run; to be called once it can go on with them."""
        if self._allowed:
            with disk_full_as_input_error(self.path):
                self._append("changes.jsonl", {"time": time.strftime("%FT%T%z"), **self._allowed})
                self._write_down()
            self._allowed = {}

    def _write_down(self) -> None:
        write_text(self.path / INPUTS, json.dumps(self.inputs, indent=2) + "\n", durable=True)
        write_text(self.path / "config.yaml", to_yaml(self.config), durable=True)

    def _is_barely_begun(self) -> bool:
        """Whether a folder without config.yaml is empty, or of a run killed before it wrote one."""
        names = {entry.name for entry in self.path.iterdir() if not entry.name.endswith(".tmp")}
        return names <= {"checkpoints", "panels", INPUTS, LOCK}

    def _changes(self) -> dict[str, str]:
        """{key: what differs} between the run as it was begun and as it is asked for now."""
        before = flatten(load_config(self.path / "config.yaml", type(self.config)))
        now = flatten(self.config)
        free = set(RESUMABLE_KEYS)
        if self.config.train.cooldown_iterations:
            free.remove("train.num_iterations")
        changes = {
            key: f"{key}: {before.get(key)} -> {now.get(key)}"
            for key in before | now
            if before.get(key) != now.get(key) and key not in free
        }
        inputs_before = json.loads((self.path / INPUTS).read_text(encoding="utf-8"))
        for key in inputs_before | self.inputs:
            old, new = inputs_before.get(key), self.inputs.get(key)
            if old != new:
                content = f"content of {key}: {_text(old)} -> {_text(new)}"
                changes[key] = f"{changes[key]}, {content}" if key in changes else content
        return changes

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Within the block no other process trains in this folder.

        Raises:
            InputError: another one does.
        """
        try:
            held = FileLock(self.path / LOCK, blocking=False).acquire()
        except Timeout as error:
            raise InputError(
                f"{self.path}: another process is training there; wait for it, or choose another "
                "--run-dir"
            ) from error
        with held:
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
            "config": self.config.model_dump(mode="json"),
            "inputs": self.inputs,
            **state,
        }
        stats = self.path / "stats.jsonl"
        if stats.exists():
            flush_to_disk(stats)  # its lines up to here are not written again on resuming
        self.store.save(iteration, content, score)

    def record_not_finite(self, report: dict[str, Any]) -> Path:
        """Writes what is needed to repeat a step that was not finite, and returns the file."""
        path = self.path / "not_finite.json"
        write_text(path, json.dumps(report, indent=2) + "\n")
        return path

    def forget_after(self, iteration: int) -> None:
        """Drops the statistics of later iterations, which a resumed run will write again."""
        self._purge_step = iteration + 1
        stats = self.path / "stats.jsonl"
        if stats.exists():
            lines = stats.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = "".join(line for line in lines if _iteration(line) <= iteration)
            write_text(stats, kept, durable=True)

    def log(self, iteration: int, values: dict[str, float]) -> None:
        """Appends a line to the statistics and the curves."""
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        self._append("stats.jsonl", {"iteration": iteration, **finite})
        self.log_speed(iteration, values)

    def _append(self, name: str, entry: dict[str, Any]) -> None:
        with open(self.path / name, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")

    def log_speed(self, iteration: int, values: dict[str, float]) -> None:
        """Adds to the curves only: timings differ from run to run."""
        for name, value in values.items():
            self._curves().add_scalar(name, value, iteration)

    def save_panel(self, iteration: int, panel: Tensor) -> None:
        """Writes a (3, H, W) picture in [-1, 1]."""
        save_image(panel, self.path / "panels" / f"iteration_{iteration:07d}.png")
        self._curves().add_image("panel", to_uint8(panel), iteration)

    def _curves(self) -> SummaryWriter:
        if self._writer is None:
            if self.config.train.wandb_project is not None:
                self._mirror(self.config.train.wandb_project)
            folder = self.path / "tensorboard"
            self._writer = SummaryWriter(folder, purge_step=self._purge_step)
        return self._writer

    def _mirror(self, project: str) -> None:
        """Lets Weights & Biases follow the curves; a resumed run goes on under its old name."""
        import wandb

        wandb.init(
            project=project,
            name=self.path.name,
            id=hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:16],
            resume="allow",
            dir=self.path,
            config=flatten(self.config),
            sync_tensorboard=True,
        )

    def close(self) -> None:
        """Flushes the curves."""
        if self._writer is not None:
            self._writer.close()


def _text(value: Any) -> str:
    """A hash or fingerprint in one short line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
    return str(value)[:12]


def _iteration(line: str) -> float:
    """The iteration of a line of statistics; infinity for a line cut off by a crash."""
    try:
        return json.loads(line)["iteration"]
    except json.JSONDecodeError:
        return math.inf
