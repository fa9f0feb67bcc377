"""What a solver is: one signature for every method, and what a method may demand.

A solver is one file of this folder with one subclass of `Solver`; its fields are the method's
hyperparameters, which `configs/solvers/` sets for each task and data set.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from davi.config.section import Section
from davi.operators.convolution import UnknownConvolution
from davi.operators.denoising import Denoising
from davi.operators.gaussian_blur import GaussianBlur
from davi.operators.inpainting import Inpainting
from davi.operators.linear import LinearOperator
from davi.operators.noise import GaussianNoise, Noise
from davi.operators.operator import Operator
from davi.operators.super_resolution import SuperResolution
from davi.operators.svd import SVDOperator
from davi.solvers.prior import CountedPrior
from davi.system.errors import InputError

Rngs = list[torch.Generator]  # one per image
SIGMA_FLOOR = 2e-3  # taken for smaller sigma_y by DiffPIR's code (0.001 on [0, 1]) and its kin

NOISE_LEVEL = "noise level"
LINEAR = "linear"
SVD = "SVD"  # which is linear
DENOISING = "denoising"
GAUSSIAN_BLUR = "Gaussian blur"
INPAINTING = "inpainting"
SUPER_RESOLUTION = "super-resolution"
GRADIENT = "gradient through the prior"
TRAINING = "training"


def _knows_noise_level(operator: Operator, noise: Noise) -> bool:
    return isinstance(noise, GaussianNoise) and noise.sigma_low == noise.sigma_high


def _is(kind: type[Operator]) -> Callable[[Operator, Noise], bool]:
    return lambda operator, noise: isinstance(operator, kind)


# What of it an inverse problem can lack, and what to say then.
DEMANDS: dict[str, tuple[Callable[[Operator, Noise], bool], str]] = {
    NOISE_LEVEL: (_knows_noise_level, "Gaussian noise of one known sigma"),
    LINEAR: (_is(LinearOperator), "a linear operator"),
    SVD: (_is(SVDOperator), "the operator's singular value decomposition (an SVDOperator)"),
    DENOISING: (_is(Denoising), "the task denoising"),
    GAUSSIAN_BLUR: (_is(GaussianBlur), "a Gaussian blur with zero padding"),
    INPAINTING: (_is(Inpainting), "the task inpainting"),
    SUPER_RESOLUTION: (_is(SuperResolution), "the task super-resolution"),
}


class Solver(Section, ABC):
    """A method that restores images from measurements, given a prior. Fields: hyperparameters.

    Attributes:
        label: the method's name in tables.
        needs: some of the keys of `DEMANDS`, GRADIENT, TRAINING.
        tasks: names of the tasks it is defined for; None for all.
    """

    label: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    tasks: ClassVar[frozenset[str] | None] = None

    @torch.no_grad()
    def __call__(
        self, y: Tensor, operator: Operator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """Returns one restoration per measurement, (B, C, H, W), nominally in [-1, 1], unclipped.

        Args:
            y: (B, *measurement_shape) measurements on the [-1, 1] scale.
            operator: A, the same for the batch (masks may differ).
            noise: the distribution of y given A x.
            prior: counts its evaluations.
            rngs: one generator per image, on the device of y: the only source of randomness, so
                that a restoration does not depend on what else is in the batch.

        Raises:
            InputError: the method cannot solve this problem, or its result is not finite.
        """
        self.require(operator, noise)
        x = self.solve(operator.project(y), operator, noise, prior, rngs)
        self.require_finite(x)
        return x

    def require_finite(self, x: Tensor) -> None:
        """Refuses a result that no picture can show.

        Raises:
            InputError: it is not finite.
        """
        if not torch.isfinite(x).all():
            raise InputError(
                f"{self.label}: the result holds NaN or infinity; take smaller steps or fp32"
            )

    def require(self, operator: Operator, noise: Noise) -> None:
        """Refuses a problem that lacks what the method needs.

        Raises:
            InputError: says what is lacking.
        """
        if isinstance(operator, UnknownConvolution):
            raise InputError(
                f"{self.label} needs the kernel of the blur, which is unknown here; choose a blind "
                "solver: blind_dps or dmplug_blind"
            )
        for need in sorted(self.needs & DEMANDS.keys()):
            is_met, demand = DEMANDS[need]
            if not is_met(operator, noise):
                raise InputError(
                    f"{self.label} needs {demand}; here are {type(operator).__name__} and "
                    f"{type(noise).__name__}. Choose a solver that does without"
                )

    @abstractmethod
    def solve(
        self, y: Tensor, operator: Operator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """Does the work of `__call__`, whose arguments it takes, without gradients.

        A method that differentiates says `with torch.enable_grad():` where it does.
        """
