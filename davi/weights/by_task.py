"""Which shipped generators restore a task, and for how much noise."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from davi.system.errors import InputError
from davi.system.shipped import CHECKPOINTS, SUFFIXES, shipped_folder, shipped_names
from davi.weights.network_file import GENERATOR, read_header


@dataclass(frozen=True)
class ShippedGenerator:
    """What the header of a file says.

    Attributes:
        path: of the file.
        task: the operator's name.
        sigmas: smallest and largest deviation of the Gaussian noise it was trained for, on the
            [-1, 1] scale; None of other noise.
    """

    path: Path
    task: str
    sigmas: tuple[float, float] | None

    def distance(self, sigma: float) -> float:
        """Returns how far a deviation is from those of the training."""
        if self.sigmas is None:
            return float("inf")
        low, high = self.sigmas
        return max(low - sigma, sigma - high, 0.0)


def nearest_generator(task: str, sigma: float) -> ShippedGenerator:
    """Returns the shipped generator for a task whose noise is nearest, by name the first of equals.

    Raises:
        InputError: none is for the task.
    """
    generators = list(_shipped_generators())
    found = [generator for generator in generators if generator.task == task]
    if not found:
        tasks = sorted({generator.task for generator in generators})
        raise InputError(
            f"no shipped generator is for {task!r}; there are some for {', '.join(tasks)}; name "
            "one of your own with --checkpoint"
        )
    return min(found, key=lambda generator: (generator.distance(sigma), generator.path.name))


def _shipped_generators() -> list[ShippedGenerator]:
    found = []
    for name in shipped_names(CHECKPOINTS):
        path = shipped_folder(CHECKPOINTS) / (name + SUFFIXES[CHECKPOINTS])
        kind, config, _ = read_header(path)
        if kind == GENERATOR:
            sigmas = _sigmas(config["noise"])
            found.append(ShippedGenerator(path, config["operator"]["name"], sigmas))
    return found


def _sigmas(noise: dict[str, Any]) -> tuple[float, float] | None:
    if noise["name"] != "gaussian":
        return None
    sigma = noise["sigma"]
    return tuple(sigma) if isinstance(sigma, list) else (sigma, sigma)
