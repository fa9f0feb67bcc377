"""What the page answers when a button is pressed: pictures as files in one folder, and lines."""

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from davi.app.restoring import NUM_SAMPLES, Measured, canvas, measure, samples, uncertainty_map
from davi.app.solving import solve
from davi.data.images import save_image, to_uint8
from davi.metrics.scores import psnr
from davi.pictures.noise import in_words
from davi.system.errors import InputError

CLEAN, DAMAGED = "clean: damage it, then restore it", "damaged: restore it as it is"
ZIP = "davi_restored.zip"
CANVAS_SCALE = 6  # of a pixel that a hole is drawn on


@dataclass(frozen=True)
class Shown:
    """What the second tab goes on with.

    Attributes:
        measured: the measurement.
        folder: of the pictures that the page shows.
    """

    measured: Measured
    folder: Path


@dataclass(frozen=True)
class Answers:
    """The answers of one server.

    Attributes:
        folder: where folders of pictures are made.
        device: where networks run.
        precision: of the networks.
    """

    folder: Path
    device: str
    precision: str

    def canvas(self, photo: str | None, task: str) -> np.ndarray | None:
        """Returns what a hole is drawn on, (H, W, 3) of 8 bits; None but for inpainting.

        Raises:
            InputError: the file cannot be used.
        """
        if photo is None or task != "inpainting":
            return None
        picture = canvas(Path(photo), self.device, self.precision)
        large = F.interpolate(picture[None], scale_factor=CANVAS_SCALE, mode="nearest")[0]
        return to_uint8(large).permute(1, 2, 0).numpy()

    def restore(
        self,
        photo: str | None,
        state: str,
        task: str,
        sigma: float,
        seed: int,
        drawn: dict[str, Any] | None,
        last: Shown | None,
    ) -> Iterator[dict[str, Any]]:
        """Yields what is new on the page after every sample, by the names of its parts.

        Args:
            photo: the picture file.
            state: `CLEAN` or `DAMAGED`.
            task: one of `TASKS`.
            sigma: deviation of the noise that a clean photograph is measured with.
            seed: of noise and samples.
            drawn: what the brush left, see `hole_of`; for inpainting only.
            last: what was shown until now, which is removed.

        Raises:
            InputError, CheckpointError: see `measure`.
        """
        if photo is None:
            raise InputError("drop a photograph first")
        forget(last)
        noise = None if state == DAMAGED else sigma
        hole = hole_of(drawn) if task == "inpainting" else None
        measured = measure(Path(photo), task, noise, self.device, self.precision, seed, hole)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        found, strip = [], []
        before = _saved(measured.picture, folder / "measurement.png")
        for number, sample in enumerate(samples(measured, seed)):
            found.append(sample)
            strip.append(_saved(sample, folder / f"sample_{number}.png"))
            new = {"notes": _notes(measured, found), "strip": strip}
            if number == 0:
                new |= {"measurement": before, "restoration": strip[0]}
                new |= {"slider": (before, strip[0]), "uncertainty": None, "download": None}
                new["shown"] = Shown(measured, folder)
            yield new
        spread, largest = uncertainty_map(found)
        yield {
            "notes": f"{_notes(measured, found)}\n* uncertainty map: white is {in_words(largest)}",
            "uncertainty": _saved(spread, folder / "uncertainty.png"),
            "download": _zipped(folder),
        }

    def solve(self, shown: Shown | None, solver: str, seed: int) -> dict[str, Any]:
        """Returns what is new on the page, by the names of its parts.

        Raises:
            InputError, CheckpointError: nothing was restored before; see `solve`.
        """
        if shown is None or not shown.folder.exists():
            raise InputError("restore a photograph in the first tab: solvers get its measurement")
        solved = solve(shown.measured, solver, seed)
        before = _saved(solved.before, shown.folder / "middle_measurement.png")
        after = _saved(solved.image, shown.folder / f"middle_{solver}.png")
        line = solved.line
        return {"solver_line": line, "solver_slider": (before, after), "solver_download": after}


def hole_of(drawn: dict[str, Any] | None) -> Tensor | None:
    """Returns where layers of an editor, (h, w, 4) of 8 bits, have colour, (h, w) bool.

    None where nothing was drawn.
    """
    layers = [] if drawn is None else drawn["layers"]
    hole = np.any([layer[..., 3] > 0 for layer in layers], axis=0)
    return torch.from_numpy(hole) if np.any(hole) else None


def forget(shown: Shown | None) -> None:
    """Removes the pictures of somebody who has left, or restores another photograph."""
    if shown is not None:
        shutil.rmtree(shown.folder, ignore_errors=True)


def _notes(measured: Measured, found: list[Tensor]) -> str:
    lines = [*measured.notes, f"{len(found)} of {NUM_SAMPLES} samples"]
    if measured.truth is not None:
        truth = measured.truth[None]
        scores = [psnr(image[None], truth).item() for image in (measured.picture, found[0])]
        lines.append(f"PSNR: measurement {scores[0]:.2f} dB, restoration {scores[1]:.2f} dB")
    return "\n".join(f"* {line}" for line in lines)


def _saved(image: Tensor, path: Path) -> str:
    save_image(image, path)
    return str(path)


def _zipped(folder: Path) -> str:
    """A file with all pictures of a folder."""
    path = folder / ZIP
    with zipfile.ZipFile(path, "w") as archive:
        for picture in sorted(folder.glob("*.png")):
            archive.write(picture, picture.name)
    return str(path)
