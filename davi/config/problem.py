"""What a run configuration may say of an inverse problem: the operator and the noise."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from davi.config.section import FilePath, MaskPath, Pixels, Section, Seed

Mixed = Annotated[float, Field(ge=-1000, le=1000)]
Width = Annotated[float, Field(ge=0.01, le=1000)]  # of a Gaussian in pixels
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
    sigma: Width = 3.0  # pixels, Sec. 5.1
    # exact: zero-padded; circular: the image goes on at its other side; release: another blur,
    # docs/fidelity.md
    variant: Literal["exact", "circular", "release"] = "exact"


class ColorizationConfig(Section):
    """A mixes the channels into one."""

    name: Literal["colorization"]
    weights: tuple[Mixed, ...] | None = None  # null: the plain mean


class NonlinearBlurConfig(Section):
    """A averages light over a motion of the camera, cuts it off, and bends it to grey levels."""

    name: Literal["nonlinear_blur"]
    num_poses: int = Field(15, ge=1, le=256)  # of the camera in one exposure
    extent: float = Field(2.8, ge=0, le=256)  # root mean square of the shifts in pixels
    rotation: float = Field(2.0, ge=0, le=90)  # root mean square of the turns in degrees
    gamma: float = Field(2.2, ge=1, le=10)  # of the camera: light is grey level^gamma
    gain: float = Field(1.5, gt=0, le=100)  # of the light; above 1 highlights burn out
    seed: Seed = 0  # of the path of the camera


class HdrConfig(Section):
    """A raises the contrast and cuts off what leaves the range."""

    name: Literal["hdr"]
    factor: float = Field(2.0, gt=0, le=100)  # of the contrast


class PhaseRetrievalConfig(Section):
    """A keeps the amplitudes of the Fourier transform; set bridge.resize: pseudo_inverse."""

    name: Literal["phase_retrieval"]
    oversample: float = Field(2.0, ge=0, le=8)  # a border of oversample / 8 of the side all around


class JpegConfig(Section):
    """A is JPEG compression by Pillow; it has no noise of its own, set noise.sigma: 0."""

    name: Literal["jpeg"]
    quality: int = Field(10, ge=1, le=100)  # of Pillow
    subsampling: Literal[0, 2] = 2  # 2: chroma channels of half the sides; 0: of the same


class BksConfig(Section):
    """A is the nonlinear blur of a trained network, for images of 128x128 and multiples of it."""

    name: Literal["bks"]
    weights: FilePath  # GOPRO_wVAE.pth of github.com/VinAIResearch/blur-kernel-space-exploring
    seed: Seed = 0  # of the latent kernel


class ConvolutionConfig(Section):
    """A blurs every image by a kernel of its own, drawn at random."""

    name: Literal["convolution"]
    kernel: Literal["motion", "gaussian"] = "motion"  # of a moving camera, or of a lens
    kernel_size: Pixels = 17  # taps of a side, odd
    # of motion: 0 is a straight line, 1 a tangle
    intensity: float = Field(0.5, ge=0, le=1)
    # of gaussian: bounds of the deviation in pixels, which each image draws for itself
    sigma: tuple[Width, Width] = (0.5, 2.0)

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "ConvolutionConfig":
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size}: an odd number is needed")
        if self.sigma[0] > self.sigma[1]:
            raise ValueError(f"sigma={list(self.sigma)}: the first must not be the larger one")
        return self


class CustomOperatorConfig(Section):
    """A is the class of a Python file, see docs/extending.md."""

    name: Literal["custom"]
    file: FilePath  # with one Operator; its stem is the name of the task
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


SHIPPED_TASKS = {
    "denoising",
    "inpainting",
    "super_resolution",
    "gaussian_blur",
    "colorization",
    "nonlinear_blur",
    "hdr",
    "phase_retrieval",
    "jpeg",
    "bks",
    "convolution",
}
OperatorConfig = Annotated[
    DenoisingConfig
    | InpaintingConfig
    | SuperResolutionConfig
    | GaussianBlurConfig
    | ColorizationConfig
    | NonlinearBlurConfig
    | HdrConfig
    | PhaseRetrievalConfig
    | JpegConfig
    | BksConfig
    | ConvolutionConfig
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
    clip: bool = False  # y to [-1, 1]

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
    """Photon noise, or shot noise."""

    name: Literal["poisson"]
    rate: float = Field(1.0, ge=0.001, le=10_000)  # full scale is 255 * rate photons, as in DPS
    clip: bool = False  # y to [-1, 1]


class ImpulseNoiseConfig(Section):
    """Salt and pepper: some entries are -1 or 1 instead."""

    name: Literal["impulse"]
    amount: float = Field(0.03, gt=0, le=1)  # probability of an entry to be one of them


class SpeckleNoiseConfig(Section):
    """Gaussian noise that grows with the intensity."""

    name: Literal["speckle"]
    sigma: float = Field(0.15, gt=0, le=1)  # standard deviation over the intensity
    clip: bool = False  # y to [-1, 1]


KINDS = GaussianNoiseConfig | PoissonNoiseConfig | ImpulseNoiseConfig | SpeckleNoiseConfig


class NoiseMixtureConfig(Section):
    """Each image draws one of several kinds, all equally likely."""

    name: Literal["mixture"]
    # each as the section `noise` of its own, e.g. [{name: gaussian, sigma: 0.1}, {name: impulse}]
    kinds: tuple[Annotated[KINDS, Field(discriminator="name")], ...] = Field(min_length=2)


NoiseConfig = Annotated[KINDS | NoiseMixtureConfig, Field(discriminator="name")]
