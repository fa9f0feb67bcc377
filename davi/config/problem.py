"""What a run configuration may say of an inverse problem: the operator and the noise."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from davi.config.section import FilePath, MaskPath, Pixels, Section

Mixed = Annotated[float, Field(ge=-1000, le=1000)]
MAX_SIGMA = 2.0  # the whole range of an image; larger numbers are on another scale


class DenoisingConfig(Section):
    """A = identity."""

    name: Literal["denoising"]


class InpaintingConfig(Section):
    """A keeps the pixels outside a hole."""

    name: Literal["inpainting"]
    # where the hole is; random_box and random_pixels draw another one for every image
    mask: Literal["centred_box", "random_box", "random_pixels", "file"] = "centred_box"
    box_size: Pixels = 128  # side of the hole in pixels
    hole_rate: float = Field(0.5, gt=0, lt=1)  # share of missing pixels of `random_pixels`
    path: MaskPath | None = None  # image of mask `file`: white is kept, black is missing
    noise_in_hole: bool = False  # the release measures noise there

    @model_validator(mode="after")
    def _path_belongs_to_file(self) -> "InpaintingConfig":
        if (self.mask == "file") != (self.path is not None):
            raise ValueError("path is needed for mask: file, and only there")
        return self


class SuperResolutionConfig(Section):
    """A averages blocks, or is a bicubic reduction."""

    name: Literal["super_resolution"]
    factor: int = Field(4, gt=1, le=2048)  # of the sides, which must be multiples of it
    kernel: Literal["average", "bicubic"] = "average"  # how a block becomes a pixel


class GaussianBlurConfig(Section):
    """A is a separable Gaussian blur."""

    name: Literal["gaussian_blur"]
    kernel_size: int = Field(61, gt=0, le=2047)  # taps, Sec. 5.1
    sigma: float = Field(3.0, ge=0.01, le=1000)  # pixels, Sec. 5.1
    # exact: zero-padded; circular: the image goes on at its other side; release: another blur,
    # docs/fidelity.md
    variant: Literal["exact", "circular", "release"] = "exact"


class ColorizationConfig(Section):
    """A mixes the channels into one."""

    name: Literal["colorization"]
    weights: tuple[Mixed, ...] | None = None  # null: the plain mean


class CustomOperatorConfig(Section):
    """A is the class of a Python file, see docs/extending.md."""

    name: Literal["custom"]
    file: FilePath  # with one LinearOperator; its stem is the name of the task
    settings: dict[str, Any] = Field(default_factory=dict)  # of the class, by keyword

    @field_validator("file")
    @classmethod
    def _names_a_new_task(cls, value: str) -> str:
        path = Path(value)
        if path.suffix != ".py":
            raise ValueError("the path of a Python file is needed")
        if path.stem in SHIPPED_TASKS:
            raise ValueError(f"{path.stem} is the name of a shipped task; rename the file")
        return value


SHIPPED_TASKS = {"denoising", "inpainting", "super_resolution", "gaussian_blur", "colorization"}
OperatorConfig = Annotated[
    DenoisingConfig
    | InpaintingConfig
    | SuperResolutionConfig
    | GaussianBlurConfig
    | ColorizationConfig
    | CustomOperatorConfig,
    Field(discriminator="name"),
]

_OF_MASKS = {"box_size": ("centred_box", "random_box"), "hole_rate": ("random_pixels",)}


def damage_in_words(operator: Mapping[str, Any]) -> str:
    """Returns what counts of the values of an operator section, as "mask centred_box, box_size 32".

    Of a file its name alone; no key of another mask than the one it has.
    """
    counts = {key: value for key, value in operator.items() if key not in ("name", "path")}
    for key, masks in _OF_MASKS.items():
        if counts.get("mask") not in masks:
            counts.pop(key, None)
    if "file" in counts:
        counts["file"] = Path(counts["file"]).name
    return ", ".join(f"{key} {value}" for key, value in counts.items() if value is not None)


class GaussianNoiseConfig(Section):
    """Additive white noise."""

    name: Literal["gaussian"]
    # standard deviation on the [-1, 1] scale (Sec. 5.1); with [low, high] each image draws its own
    # between them (Table 3)
    sigma: float | tuple[float, float] = 0.05

    @field_validator("sigma", mode="before")
    @classmethod
    def _is_a_deviation_or_a_range(cls, value: Any) -> Any:
        bounds = value if isinstance(value, (list, tuple)) and len(value) == 2 else [value, value]
        numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in bounds)
        if not numbers or not 0 <= bounds[0] <= bounds[1] <= MAX_SIGMA:
            raise ValueError(
                "a standard deviation on the [-1, 1] scale is needed, or a range [low, high] of "
                f"them, between 0 and {MAX_SIGMA}"
            )
        return value

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest standard deviation."""
        return self.sigma if isinstance(self.sigma, tuple) else (self.sigma, self.sigma)


class PoissonNoiseConfig(Section):
    """Photon noise."""

    name: Literal["poisson"]
    rate: float = Field(1.0, ge=0.001, le=10_000)  # full scale is 255 * rate photons, as in DPS


NoiseConfig = Annotated[GaussianNoiseConfig | PoissonNoiseConfig, Field(discriminator="name")]
