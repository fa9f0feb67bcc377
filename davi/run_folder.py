"""The folder of one training run: configuration, checkpoints, statistics, panels.

config.yaml           the resolved configuration
checkpoints/*.pt      full training state, the newest few
stats.jsonl           one line per logged iteration, the same for an unbroken and a resumed run
panels/*.png          validation pictures
tensorboard/          the same curves and pictures, with speed
"""

import hashlib
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from davi.config import Section
from davi.config_file import flatten, load_config, to_yaml
from davi.errors import InputError
from davi.files import atomic_path, make_folder, write_text
from davi.images import save_image, to_uint8
from davi.weights import read_training_checkpoint

INPUTS = "inputs.json"
# What may differ between the parts of one run without making it another run. (Under a cool-down
# num_iterations shapes the learning rate, and may not.)
RESUMABLE_KEYS = (
    "train.num_iterations",
    "train.log_every",
    "train.validate_every",
    "train.save_every",
    "train.keep_checkpoints",
    "train.wandb_project",
    "data.num_workers",
)


class RunFolder:
    """Owns everything a run writes.

    Args:
        path: the folder; created if needed. An existing one must hold the same run.
        config: the run's configuration.
        inputs: {key of the configuration: SHA-256 of the file it names}.

    Raises:
        InputError: the folder is not writable, is in use for something else, or holds a run with
            another configuration; the differing keys are listed.
    """

    def __init__(self, path: Path, config: Section, inputs: dict[str, str]) -> None:
        self.path = path
        self.config = config
        kept = path / "config.yaml"
        if config.train.wandb_project is not None and importlib.util.find_spec("wandb") is None:
            raise InputError("train.wandb_project is set: pip install 'davi[tracking]' first")
        if kept.exists():
            self._check_same_run(kept)
            self._check_same_inputs(inputs)
        elif path.is_dir() and any(path.iterdir()):
            raise InputError(f"{path}: exists and holds no run; choose another --run-dir")
        make_folder(path / "checkpoints")
        make_folder(path / "panels")
        write_text(kept, to_yaml(config))
        write_text(path / INPUTS, json.dumps(inputs, indent=2) + "\n")
        self._writer: SummaryWriter | None = None
        self._purge_step: int | None = None

    def _check_same_run(self, kept: Path) -> None:
        before = flatten(load_config(kept, type(self.config)))
        now = flatten(self.config)
        free = set(RESUMABLE_KEYS)
        if self.config.train.cooldown_iterations:
            free.remove("train.num_iterations")
        differing = [
            f"{key}: {before.get(key)} -> {now.get(key)}"
            for key in before | now
            if before.get(key) != now.get(key) and key not in free
        ]
        if differing:
            raise InputError(
                f"{self.path}: holds a run with another configuration ({'; '.join(differing)}); "
                "choose another --run-dir or undo the change"
            )

    def _check_same_inputs(self, inputs: dict[str, str]) -> None:
        before = json.loads((self.path / INPUTS).read_text(encoding="utf-8"))
        if changed := [key for key in before | inputs if before.get(key) != inputs.get(key)]:
            raise InputError(
                f"{self.path}: began with another content of the file of {', '.join(changed)}; put "
                "the old file back or choose another --run-dir"
            )

    def checkpoints(self) -> list[Path]:
        """Returns the checkpoint files, oldest first."""
        return sorted((self.path / "checkpoints").glob("iteration_*.pt"))

    def load_newest(self) -> dict[str, Any] | None:
        """Returns the content of the newest checkpoint, on the CPU, or None if there is none."""
        files = self.checkpoints()
        return read_training_checkpoint(files[-1]) if files else None

    def save(self, iteration: int, state: dict[str, Any], keep: int) -> None:
        """Writes the training state after `iteration` iterations and drops all but `keep` files."""
        target = self.path / "checkpoints" / f"iteration_{iteration:07d}.pt"
        content = {"iteration": iteration, "config": self.config.model_dump(mode="json"), **state}
        with atomic_path(target) as temporary:
            torch.save(content, temporary)
        for old in self.checkpoints()[:-keep]:
            old.unlink()

    def forget_after(self, iteration: int) -> None:
        """Drops the statistics of later iterations, which a resumed run will write again."""
        self._purge_step = iteration + 1
        stats = self.path / "stats.jsonl"
        if stats.exists():
            lines = stats.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(stats, "".join(line for line in lines if _iteration(line) <= iteration))

    def log(self, iteration: int, values: dict[str, float]) -> None:
        """Appends a line to the statistics and the curves."""
        with open(self.path / "stats.jsonl", "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"iteration": iteration, **values}) + "\n")
        self.log_speed(iteration, values)

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


def _iteration(line: str) -> float:
    """The iteration of a line of statistics; infinity for a line cut off by a crash."""
    try:
        return json.loads(line)["iteration"]
    except json.JSONDecodeError:
        return math.inf
