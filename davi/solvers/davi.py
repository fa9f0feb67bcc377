"""DAVI itself, Algorithm 2: one evaluation of a generator that was trained for the operator."""

from functools import cache
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from davi.bridge import PosteriorBridge
from davi.build import build_bridge
from davi.config.section import FilePath, Pixels
from davi.generator import DenoisingGenerator
from davi.operators.measurement import image_of
from davi.operators.operator import Operator
from davi.restorer import Restorer, load
from davi.sampler import posterior_sample
from davi.schedule import Schedule
from davi.solvers.base import TRAINING, Noise, Rngs, Solver
from davi.solvers.prior import CountedPrior
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng, normal_each


class Davi(Solver):
    """x = I_phi(y + h z). The prior's work was done in training.

    Fields:
        checkpoint: the generator, anything that `davi.load` takes.
        h: strength of the noise that sampling starts from, on the [-1, 1] scale; None for that of
            the generator's run. 0 makes the restoration a function of y.
        operator_file: of a generator for an operator of the user's own, the code of that operator;
            of one for a mask that its file does not hold, the picture of the mask.
        mean_of: how many samples are averaged, with one evaluation each.
        size: side in pixels of the images it restores here, if not that of its training.
    """

    label: ClassVar[str] = "DAVI"
    needs: ClassVar[frozenset[str]] = frozenset({TRAINING})
    checkpoint: FilePath
    operator_file: FilePath | None = None
    size: Pixels | None = None
    h: float | None = Field(None, ge=0)
    mean_of: int = Field(1, ge=1)

    def solve(
        self, y: Tensor, operator: Operator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        restorer = load_generator(
            self.checkpoint, str(y.device), prior.precision, self.operator_file, self.size
        )
        bridge = restorer.bridge if self.h is None else self._bridge(restorer)
        self._require_trained_for(operator, y, restorer)
        y_image = image_of(y, operator, bridge.resize)
        total = torch.zeros_like(y_image)
        with prior.evaluations.watching(restorer.generator.network):
            for _ in range(self.mean_of):
                z = normal_each(operator.image_shape, rngs)
                total += posterior_sample(restorer.generator, bridge, y_image, z)
        return total / self.mean_of

    def _bridge(self, restorer: Restorer) -> PosteriorBridge:
        """The bridge of the generator's run, with this solver's h where sampling starts."""
        if isinstance(restorer.generator, DenoisingGenerator):
            raise InputError(f"{self.checkpoint}: knows the h of its noise; leave out h={self.h}")
        config = restorer.config.bridge.model_copy(update={"h_sampling": self.h})
        return build_bridge(config, Schedule.named(restorer.config.schedule))

    def _require_trained_for(self, operator: Operator, y: Tensor, restorer: Restorer) -> None:
        trained = restorer.operator.sample([keyed_rng("cpu", 0)])  # of a family, any member
        if (
            type(operator).__name__ != type(trained).__name__
            or operator.image_shape != restorer.image_shape
            or y.shape[1:] != restorer.measurement_shape
        ):
            raise InputError(
                f"{self.checkpoint}: restores {restorer.image_shape} from "
                f"{restorer.measurement_shape} ({restorer.task}); here are {operator.image_shape} "
                f"from {tuple(y.shape[1:])} ({type(operator).__name__}); take a generator trained "
                "for that, or set size if only the sides differ"
            )


@cache
def load_generator(
    checkpoint: str,
    device: str,
    precision: str,
    operator_file: str | None = None,
    side: int | None = None,
) -> Restorer:
    """Returns the restorer in a file, read once."""
    overrides = []
    if operator_file is not None:
        key = "file" if operator_file.endswith(".py") else "path"
        overrides = [f"operator.{key}={operator_file}"]
    size = None if side is None else (side, side)
    return load(checkpoint, device, precision, size, overrides=overrides)
