"""What a run tells of its progress: numbers, curves and pictures."""

import hashlib
import importlib.util
import json
import math
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from davi.data.images import save_image, to_uint8
from davi.system.errors import InputError
from davi.system.files import append_json, flush_to_disk, write_text
from davi.system.json_file import parse_json

STATISTICS, PANELS = "stats.jsonl", "panels"


class RunStatistics:
    """Writes stats.jsonl, panels/ and tensorboard/ of a run folder.

    Args:
        folder: of the run.
        wandb_project: project of Weights & Biases that follows the curves, if any.
        config: {"section.key": value}, shown there.

    Raises:
        InputError: a project is named, and wandb is not installed; or the folder's name is no
            UTF-8.
    """

    def __init__(self, folder: Path, wandb_project: str | None, config: dict[str, Any]) -> None:
        if wandb_project is not None and importlib.util.find_spec("wandb") is None:
            raise InputError("train.wandb_project is set: pip install 'davi[tracking]' first")
        if not _is_utf8(str(folder)):
            raise InputError(f"{folder}: TensorBoard takes UTF-8 only; choose another --run-dir")
        self.folder = folder
        self.file = folder / STATISTICS
        self._project = wandb_project
        self._config = config
        self._writer: SummaryWriter | None = None
        self._purge_step: int | None = None

    def forget_after(self, iteration: int) -> None:
        """Drops the lines of later iterations, which a resumed run will write again.

        Raises:
            InputError: a line was not written by a run; the file is left as it is.
        """
        self._purge_step = iteration + 1
        if self.file.exists():
            lines = self.file.read_bytes().splitlines(keepends=True)
            kept = [
                line
                for number, line in enumerate(lines, start=1)
                if _iteration(line, f"{self.file}: line {number}") <= iteration
            ]
            write_text(self.file, b"".join(kept).decode(), durable=True)

    def log(self, iteration: int, values: dict[str, float]) -> None:
        """Appends a line to the statistics and the curves."""
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        append_json(self.file, {"iteration": iteration, **finite})
        self.log_speed(iteration, values)

    def log_speed(self, iteration: int, values: dict[str, float]) -> None:
        """Adds to the curves only: timings differ from run to run."""
        for name, value in values.items():
            self._curves().add_scalar(name, value, iteration)

    def save_panel(self, iteration: int, panel: Tensor) -> None:
        """Writes a (3, H, W) picture in [-1, 1]."""
        save_image(panel, self.folder / PANELS / f"iteration_{iteration:07d}.png")
        self._curves().add_image("panel", to_uint8(panel), iteration)

    def flush(self) -> None:
        """Returns once all lines are on the disk: after a resume they are not written again."""
        if self.file.exists():
            flush_to_disk(self.file)

    def close(self) -> None:
        """Flushes the curves."""
        if self._writer is not None:
            self._writer.close()

    def _curves(self) -> SummaryWriter:
        if self._writer is None:
            if self._project is not None:
                self._mirror(self._project)
            self._writer = SummaryWriter(self.folder / "tensorboard", purge_step=self._purge_step)
        return self._writer

    def _mirror(self, project: str) -> None:
        """Lets Weights & Biases follow the curves; a resumed run goes on under its old name."""
        import wandb

        wandb.init(
            project=project,
            name=self.folder.name,
            id=hashlib.sha256(os.fsencode(self.folder.resolve())).hexdigest()[:16],
            resume="allow",
            dir=self.folder,
            config=self._config,
            sync_tensorboard=True,
        )


def last_validation(folder: Path, iteration: int) -> tuple[dict[str, float], Path | None]:
    """Returns what a run showed last until an iteration: {"psnr": ..., "ssim": ...}, and a picture.

    Both are empty of a run without validation.

    Raises:
        InputError: a line was not written by a run.
    """
    scores, file = {}, folder / STATISTICS
    for number, line in enumerate(file.read_bytes().splitlines() if file.exists() else [], 1):
        known = _iteration(line, f"{file}: line {number}") <= iteration
        if known and "psnr" in (values := json.loads(line)):
            scores = {key: values[key] for key in ("psnr", "ssim")}
    last = f"iteration_{iteration:07d}.png"
    pictures = [path for path in (folder / PANELS).glob("iteration_*.png") if path.name <= last]
    return scores, max(pictures, default=None)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Line(BaseModel):
    iteration: int


def _iteration(line: bytes, place: str) -> float:
    """The iteration of a line of statistics; infinity for a line cut off by a crash."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return math.inf
    return parse_json(line, _Line, place).iteration
