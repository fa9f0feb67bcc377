"""A trained generator, ready to restore: `davi.load(path).restore(y)`."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from davi.build import build_bridge, build_generator, build_operator, image_shape
from davi.config.schema import RunConfig
from davi.data.measurement_files import shape_text
from davi.metrics.uncertainty import (
    Calibration,
    calibrating_names,
    calibration,
    interval,
    reach,
    require_images,
    require_samples,
)
from davi.operators.inpainting import Inpainting
from davi.operators.measurement import image_of, require_measurement_scale
from davi.pictures.pieces import Pieces, factors
from davi.sampler import posterior_sample
from davi.schedule import Schedule
from davi.system.errors import InputError
from davi.system.runtime import (
    AUTOCAST_DTYPES,
    is_whole,
    keyed_rng,
    select_device,
)
from davi.weights.generator_file import read_generator_file
from davi.weights.network_file import weights_file
from guided_diffusion.folding import fold_time
from guided_diffusion.nn import to_half_precision
from guided_diffusion.unet import UNetModel

LARGEST_MEAN_IN_HOLE = 0.5  # of noise it is about 0, of a hole painted black or white 1
COMPILE_MODES = {"cpu": "default", "cuda": "reduce-overhead"}  # the latter means CUDA graphs


class Restorer:
    """Turns measurements into posterior samples, one network evaluation each.

    Args:
        config: the run the generator was trained by.
        network: its (averaged) network, which becomes one for inference alone.
        device: where to run, see `load`.
        precision: fp32, bf16 or fp16.
        size: (H, W) of the restored images or pieces, if not the trained size.
        compile: compile the network for this device at its first use (on a GPU with CUDA graphs).
        origin: what a record says of the network, see `GeneratorFile.record`.

    Attributes:
        task: name of the inverse problem.
        image_shape: (C, H, W) of restored images, or of the pieces of larger ones.
        measurement_shape: shape of one measurement, or of a piece.
        operator: A, or a family of which every image has its own.

    Raises:
        InputError: no such device or precision, or the size does not fit the network or the
            operator.
    """

    def __init__(
        self,
        config: RunConfig,
        network: torch.nn.Module,
        device: str | torch.device,
        precision: str = "fp32",
        size: tuple[int, int] | None = None,
        compile: bool = False,
        origin: dict[str, Any] | None = None,
    ) -> None:
        channels, *trained_size = image_shape(config)
        height, width = trained_size if size is None else _checked_size(size)
        multiple = config.network.unet().downsampling
        if height % multiple or width % multiple:
            raise InputError(
                f"image size {height}x{width}: both sides must be multiples of {multiple} for "
                "this network"
            )
        if precision not in AUTOCAST_DTYPES:
            raise InputError(
                f"precision {precision!r} is unknown: use {', '.join(AUTOCAST_DTYPES)}"
            )
        device = select_device(device)
        schedule = Schedule.named(config.schedule)
        self.config = config
        self.task = config.task
        self.device = device
        self.precision = precision
        self.origin = origin or {}
        self.image_shape = (channels, height, width)
        self.operator = build_operator(config.operator, self.image_shape).to(device)
        self.measurement_shape = self.operator.measurement_shape
        if self.operator.same_everywhere:
            _require_whole_factors(self.measurement_shape, self.image_shape)
        self.bridge = build_bridge(config.bridge, schedule).to(device)
        # Code of one's own may cast nothing by itself; otherwise the network has the precision.
        casts = config.network.name == "custom"
        self.generator = build_generator(
            network.eval(), config, self.bridge, self.operator, precision if casts else "fp32"
        ).to(device)
        if isinstance(network, UNetModel):
            fold_time(network, self.generator.time)
        dtype = AUTOCAST_DTYPES[precision]
        if dtype is not None and not casts:
            to_half_precision(network, dtype)
        if compile:
            network.compile(dynamic=False, mode=COMPILE_MODES[device.type])

    def restore(
        self,
        y: Tensor,
        num_samples: int = 1,
        seed: int = 0,
        names: Sequence[str] | None = None,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Returns posterior samples, (num_samples, B, C, H, W) float32 in [-1, 1], on the CPU.

        Source: Algorithm 2. Where the operator does the same everywhere, measurements may have any
        size: a larger one is cut into overlapping pieces of `measurement_shape`, whose samples
        share one noise z and are blended; a smaller one is continued by its mirror image.

        Args:
            y: (B, *measurement_shape) floating-point measurements on the [-1, 1] scale, or
                pictures of another height and width.
            num_samples: samples per measurement, at least 1.
            seed: together with a measurement's name and the sample's number it determines the
                noise z, whatever else is in the batch.
            names: one per measurement; by default "0", "1", ...
            batch_size: pieces at a time, by default B; on a CPU each is evaluated alone.
            progress: show a bar if it takes more than a moment.

        Raises:
            InputError: y is no such tensor, another argument does not fit it, the result is not
                finite, or there is no compiler.
        """
        if not (isinstance(y, Tensor) and y.is_floating_point()):
            kind = y.dtype if isinstance(y, Tensor) else type(y).__name__
            raise InputError(
                f"measurements: {kind}; a floating-point Tensor on the [-1, 1] scale is needed"
            )
        if not (y.ndim and len(y)):
            needed = ", ".join(map(str, self.measurement_shape))
            raise InputError(
                f"measurements of shape {tuple(y.shape)}: {self.task} needs (B, {needed}), B at "
                "least 1"
            )
        size = self.restored_size(tuple(y.shape[1:]))
        batch_size = len(y) if batch_size is None else batch_size
        for name, number in {"num_samples": num_samples, "batch_size": batch_size}.items():
            if not is_whole(number, at_least=1):
                raise InputError(f"{name}={number!r}: a whole number of at least 1 is needed")
        names = _one_for_each(names, len(y))
        require_measurement_scale(y, "measurements", self.operator.largest_value)
        shape = (num_samples, len(y), self.image_shape[0], *size)
        samples = torch.empty(shape, dtype=torch.float32)
        pieces = Pieces(y, self.measurement_shape, self.image_shape)
        with _bar(num_samples * len(pieces), progress) as bar:
            for number, images in enumerate(samples):
                # Drawn on the CPU: the same noise on every device.
                rngs = [keyed_rng("cpu", seed, "restore", name, number) for name in names]
                pieces.blend(self._restored(pieces.pairs(rngs), batch_size, bar), images)
        if not torch.isfinite(samples).all():
            raise InputError(
                "the network returned NaN or infinity: its training diverged, or its activations "
                f"overflow in {self.precision}"
            )
        return samples

    def restored_size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Returns (H, W) of what becomes of a measurement.

        Args:
            shape: of the measurement, without batch.

        Raises:
            InputError: it cannot be restored.
        """
        if shape == tuple(self.measurement_shape):
            return self.image_shape[1:]
        found, needed = shape_text(shape), shape_text(self.measurement_shape)
        if not self.operator.same_everywhere:
            raise InputError(
                f"measurement is {found}, {needed} needed; another size would do only for a damage "
                "that is the same everywhere"
            )
        if len(shape) != 3 or shape[0] != self.measurement_shape[0] or not all(shape):
            raise InputError(
                f"measurement is {found}, {needed} needed, or another height and width"
            )
        tall, wide = factors(self.measurement_shape, self.image_shape)
        return shape[1] * tall, shape[2] * wide

    def _restored(
        self, pairs: Iterator[tuple[Tensor, Tensor]], batch_size: int, bar: tqdm
    ) -> Iterator[Tensor]:
        """The samples (C, H, W) of pieces, in their order and on the CPU."""
        while batch := list(islice(pairs, batch_size)):
            y, z = (torch.stack(parts).to(self.device) for parts in zip(*batch, strict=True))
            y = self.operator.project(y)
            self._require_noise_in_hole(y)
            y_image = image_of(y, self.operator, self.bridge.resize)
            yield from self._sample(y_image, z).clamp(-1, 1).cpu()
            bar.update(len(batch))

    @property
    def settings(self) -> dict[str, Any]:
        """What a record says of the restorer, as JSON values."""
        return {
            "task": self.task,
            **self.origin,
            "precision": self.precision,
            "size": list(self.image_shape[1:]),
        }

    def interval(
        self, samples: Tensor, level: float, calibration: Calibration | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns (low, high) of the central interval of every pixel, (B, C, H, W) float32 each.

        Args:
            samples: (N, B, C, H, W) of `restore`.
            level: share of truths that the intervals are to contain, such as 0.9.
            calibration: of this restorer, for this level and N; widens the intervals.

        Raises:
            InputError: N is too small for the level, or the calibration is another one's.
        """
        require_samples(level, len(samples), calibrated=calibration is not None)
        if calibration is None:
            return interval(samples, level)
        calibration.require_fit(level, len(samples), self.settings)
        return interval(samples, level, calibration.factor)

    def calibrate(
        self, y: Tensor, truth: Tensor, level: float, num_samples: int, seed: int = 0
    ) -> Calibration:
        """Returns the calibration for intervals of a level, from measurements of known images.

        Args:
            y: (n, *measurement_shape) measurements, see `restore`.
            truth: (n, C, H, W) what was measured, in [-1, 1]; n at least level / (1 - level).
            level: share of pixels that the intervals are to contain, such as 0.9.
            num_samples: for each measurement, at least 2; later intervals need as many.
            seed: of the samples.

        Raises:
            InputError: too few images or samples, or as `restore`.
        """
        require_samples(level, num_samples, calibrated=True)
        require_images(level, len(y))
        if truth.shape != (len(y), *self.image_shape):
            raise InputError(
                f"truth of shape {tuple(truth.shape)}: {(len(y), *self.image_shape)} is needed"
            )
        names = [str(index) for index in range(len(y))]
        reaches = self.reach(y, truth, level, num_samples, seed, names)
        return calibration(reaches, level, num_samples, self.settings, measured={})

    def reach(
        self,
        y: Tensor,
        truth: Tensor,
        level: float,
        num_samples: int,
        seed: int,
        names: Sequence[str],
    ) -> Tensor:
        """Returns how far intervals must reach to contain each truth, (B, C H W), see `reach`."""
        samples = self.restore(y, num_samples, seed, calibrating_names(names))
        return reach(samples, truth, level).flatten(1)

    def _require_noise_in_hole(self, y: Tensor) -> None:
        """Refuses a hole painted black or white where the generator was trained on noise there."""
        if not isinstance(self.operator, Inpainting) or not self.operator.noise_in_hole:
            return
        missing = (1 - self.operator.singular_values.to(y.dtype)).expand_as(y)
        means = (y * missing).sum(dim=(1, 2, 3)) / missing.sum(dim=(1, 2, 3)).clamp(min=1)
        if (largest := means.abs().max().item()) > LARGEST_MEAN_IN_HOLE:
            raise InputError(
                "measurements: this generator was trained with noise around 0 in the hole, whose "
                f"mean is {largest:.3g} here; make measurements with davi degrade, or fill "
                "the hole with 0"
            )

    def _sample(self, y_image: Tensor, z: Tensor) -> Tensor:
        """Algorithm 2 for a batch; on a CPU image by image.

        CPU kernels round differently for another batch size. One by one a result is the same bit
        for bit in any company, at about 0.85 of the speed.
        """
        size = 1 if self.device.type == "cpu" else len(z)
        parts = zip(y_image.split(size), z.split(size), strict=True)
        try:
            samples = [posterior_sample(self.generator, self.bridge, *part) for part in parts]
        except torch._dynamo.exc.BackendCompilerFailed as error:
            raise InputError(
                f"the network cannot be compiled here ({str(error).splitlines()[0]}); install what "
                "is missing, or do without compile"
            ) from error
        return torch.cat(samples)


def _require_whole_factors(measured: tuple[int, ...], image: tuple[int, int, int]) -> None:
    """Refuses an operator of pictures of any size whose pieces could not be laid side by side."""
    if len(measured) != 3 or image[1] % measured[1] or image[2] % measured[2]:
        raise InputError(
            f"operator with same_everywhere: images of {shape_text(image)}, measurements of "
            f"{shape_text(measured)}; the sides of an image must be whole multiples of its "
            "measurement's"
        )


def _bar(total: int, shown: bool) -> tqdm:
    """A progress bar, which appears after two seconds: not for a few pieces."""
    return tqdm(desc="pieces", unit="piece", total=total, delay=2, leave=False, disable=not shown)


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size that was asked for, as two ints."""
    sides = tuple(size) if isinstance(size, Sequence) else ()
    if len(sides) != 2 or not all(is_whole(side, at_least=1) for side in sides):
        raise InputError(f"size={size!r}: (height, width) is needed, in pixels")
    return int(sides[0]), int(sides[1])


def _one_for_each(names: Sequence[str] | None, count: int) -> list[str]:
    """The names of so many measurements, by default their numbers."""
    if names is None:
        return [str(index) for index in range(count)]
    names = [names] if isinstance(names, str) else list(names)
    if len(names) != count:
        raise InputError(f"{len(names)} names for {count} measurements: each needs one")
    return names


def load(
    path: str | Path,
    device: str | torch.device = "auto",
    precision: str = "fp32",
    size: tuple[int, int] | None = None,
    compile: bool = False,
    config: RunConfig | str | Path | None = None,
    overrides: Sequence[str] = (),
) -> Restorer:
    """Returns the restorer of a trained generator.

    Args:
        path: a `.safetensors` file, a training checkpoint, a run folder (its newest checkpoint),
            a generator of the authors, or "hf:user/name" on the Hugging Face Hub. The averaged
            weights are used.
        device: auto, cpu, cuda or cuda:N, or a device of PyTorch.
        precision: fp32, bf16 or fp16.
        size: (H, W) of the restored images or pieces, if not the trained size.
        compile: compile the network at its first use, which takes a minute or more and needs a
            C++ compiler, and on a GPU Triton; worth it for many images on a GPU.
        config: for a generator of the authors only: its run, or the YAML file of one, which is
            read with the release's recipe. Not needed where the file has its name in the release.
        overrides: "section.key=value" strings, over the values of that YAML file; of a generator
            for an operator of your own, "operator.file=PATH", and of one for a mask of your own
            "operator.path=PATH", since no file is used that only the weight file names.

    Raises:
        InputError, CheckpointError: missing or damaged file, no generator, or nothing says of
            which task.
    """
    file = read_generator_file(weights_file(Path(path)), config, overrides)
    compiled = {"compile": True} if compile else {}  # it rounds differently
    origin = file.record() | compiled
    return Restorer(file.config, file.network(), device, precision, size, compile, origin)
