"""A column of a table: an inverse problem with its images and the prior that goes with it."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from davi.build import build_forward_model, image_shape, mask_sha256
from davi.config.network import CustomNetworkConfig
from davi.config.problem import (
    BksConfig,
    CustomOperatorConfig,
    InpaintingConfig,
)
from davi.config.schema import (
    RunConfig,
)
from davi.data.batches import open_images
from davi.data.image_sets import spread_order
from davi.operators.measurement import ForwardModel, image_of
from davi.operators.noise import GaussianNoise, Noise
from davi.operators.operator import Operator
from davi.system.errors import InputError
from davi.system.files import sha256_of
from davi.system.runtime import keyed_rng
from davi.tables.config import ColumnConfig

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Problem:
    """A column, ready to be measured.

    Attributes:
        label: heading.
        config: its run.
        images: clean images.
        indices: those of the table, in an order of which every beginning is spread evenly.
        names: of the same images.
        sha256: of the same image files.
        sources: {name: file}; crops of one photograph share it.
        forward_model: operator and noise, on the CPU.
        told_noise: the noise that solvers are told of; see `ColumnConfig.assumed_sigma`.
        seed: of noise and masks.
        facts: all that determines measurements and prior, apart from the images.
    """

    label: str
    config: RunConfig
    images: Dataset
    indices: tuple[int, ...]
    names: tuple[str, ...]
    sha256: tuple[str, ...]
    sources: dict[str, Path]
    forward_model: ForwardModel
    told_noise: Noise
    seed: int
    facts: dict[str, Any]

    def operator_for(self, positions: Sequence[int]) -> Operator:
        """Returns the operator of some images, with their own masks where masks are random."""
        return self.forward_model.operator.sample([self._rng(position) for position in positions])

    def clean(self, position: int) -> Tensor:
        """Returns a clean image, (C, H, W) in [-1, 1]."""
        return self.images[self.indices[position]]

    def measure(self, position: int) -> Tensor:
        """Returns the measurement that davi degrade writes of an image."""
        return self._measured(position)[0][0]

    def picture(self, position: int) -> Tensor:
        """Returns the measurement on the image grid, (C, H, W), small ones in squares."""
        y, operator = self._measured(position)
        resize = self.config.bridge.resize
        return image_of(y, operator, "nearest" if resize == "bilinear" else resize)[0]

    def _measured(self, position: int) -> tuple[Tensor, Operator]:
        return self.forward_model.measure(self.clean(position)[None], [self._rng(position)])

    def source_files(self) -> list[Path]:
        """Returns the Python files that say what the operator does."""
        parts = self.forward_model, self.forward_model.operator, self.forward_model.noise
        return [Path(inspect.getfile(type(part))) for part in parts]

    def _rng(self, position: int) -> torch.Generator:
        return keyed_rng("cpu", self.seed, "degrade", self.names[position])


def open_problem(column: ColumnConfig, config: RunConfig, num_images: int, seed: int) -> Problem:
    """Returns a column with its images.

    Raises:
        InputError: there are no such images, or too few, or the operator cannot be built.
    """
    source = column.images or config.data.validation
    if source is None:
        raise InputError("no images: data.validation of the config is not set")
    unet = config.network.unet()
    images = open_images(source, unet.image_size, unet.in_channels)
    if num_images > len(images):
        raise InputError(f"{source}: holds {len(images)} images, {num_images} needed")
    # A table of fewer images has some of those of a larger one.
    indices = tuple(spread_order(len(images))[:num_images])
    names = tuple(images.name(index) for index in indices)
    if len(set(names)) < len(names):
        raise InputError(f"{source}: several images have one name but for the suffix")
    forward_model = build_forward_model(config, image_shape(config), CPU)
    sigma = column.assumed_sigma
    return Problem(
        label=column.label,
        config=config,
        images=images,
        indices=indices,
        names=names,
        sha256=tuple(images.sha256(index) for index in indices),
        sources={images.name(index): images.source(index) for index in indices},
        forward_model=forward_model,
        told_noise=forward_model.noise if sigma is None else GaussianNoise(sigma, sigma),
        seed=seed,
        facts=_facts(column, config, seed),
    )


def _facts(column: ColumnConfig, config: RunConfig, seed: int) -> dict[str, Any]:
    operator, prior = config.operator, config.prior.path
    mask = operator.path if isinstance(operator, InpaintingConfig) else None
    facts = {
        **config.model_dump(mode="json", include={"network", "schedule", "operator", "noise"}),
        "mask_sha256": None if mask is None else mask_sha256(mask),
        "prior_sha256": sha256_of(prior) if prior.is_file() else None,
        "degrade_seed": seed,
    }
    # Of some columns only, so that the keys of the others stay what they were.
    if column.assumed_sigma is not None:
        facts["assumed_sigma"] = column.assumed_sigma
    if isinstance(operator, CustomOperatorConfig):
        facts["operator_sha256"] = sha256_of(Path(operator.file))
    if isinstance(operator, BksConfig):
        facts["operator_sha256"] = sha256_of(Path(operator.weights))
    if isinstance(config.network, CustomNetworkConfig):
        facts["network_sha256"] = sha256_of(Path(config.network.file))
    return facts
