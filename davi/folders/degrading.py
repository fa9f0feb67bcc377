"""Makes measurements of a data set of clean images and writes them to a folder."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from davi.build import mask_of
from davi.config.problem import (
    BksConfig,
    CustomOperatorConfig,
    NoiseConfig,
    OperatorConfig,
)
from davi.config.schema import (
    RunConfig,
)
from davi.data.image_sets import spread_order
from davi.data.images import save_array, save_image
from davi.data.kernels import picture_of
from davi.data.measurement_files import KERNEL_FOLDER, MEASUREMENT_FOLDER
from davi.operators.convolution import RandomConvolution
from davi.operators.inpainting import RandomInpainting
from davi.operators.mask_text import mask_to_text
from davi.operators.measurement import ForwardModel, image_of
from davi.system.errors import SAME_NAME, InputError
from davi.system.files import disk_full_as_input_error, sha256_of
from davi.system.ledger import FolderReport, Ledger
from davi.system.runtime import keyed_rng


def recorded_operator(operator: OperatorConfig) -> dict[str, Any]:
    """Returns what a manifest says of an operator.

    A hole without noise is not mentioned, so that folders begun before there was a choice go on.
    Of an operator of the user's own, and of a mask, the content counts.
    """
    values = operator.model_dump(mode="json")
    if isinstance(operator, CustomOperatorConfig):
        values["file"] = sha256_of(Path(operator.file))
    if isinstance(operator, BksConfig):
        values["weights"] = sha256_of(Path(operator.weights))
    # The same mask may lie in a generator's file.
    if (path := values.pop("path", None)) is not None:
        mask = mask_to_text(mask_of(path))
        values["mask_sha256"] = hashlib.sha256(mask.encode()).hexdigest()
    if not values.get("noise_in_hole"):
        values.pop("noise_in_hole", None)
    return values


def recorded_noise(noise: NoiseConfig) -> dict[str, Any]:
    """Returns what a manifest says of noise; clipping only where there is some, see above."""
    values = noise.model_dump(mode="json")
    return {key: value for key, value in values.items() if key != "clip" or value}


def degrade_images(
    images: Dataset,
    forward_model: ForwardModel,
    config: RunConfig,
    output: Path,
    *,
    seed: int,
    baselines: bool,
    num_images: int | None = None,
) -> FolderReport:
    """Writes a measurement of every image and returns what became of each.

    OUTPUT/measurement/NAME.npy   the measurement, float32 on the [-1, 1] scale
    OUTPUT/measurement/NAME.png   the same to look at, rounded and clipped to 8 bits, if it is a
                                  picture: of 1 or 3 channels
    OUTPUT/reference/NAME.png     the clean image it was made of
    OUTPUT/mask/NAME.png          white where a pixel was kept, if every image has its own mask
    OUTPUT/kernel/NAME.npy        the kernel (k, k), if every image has its own; NAME.png to look at
    OUTPUT/lifted/NAME.png, OUTPUT/pseudo_inverse/NAME.png   if `baselines`
    OUTPUT/manifest.jsonl         operator, noise, seed, and the hash of every source file

    The noise of an image depends on the seed and its name only.

    Args:
        images: of `open_images`.
        forward_model: operator and noise, on the CPU.
        config: the run, recorded in the manifest.
        output: a new folder, or one this command has begun.
        seed: of the noise.
        baselines: also write the two restorations that need no network.
        num_images: so many, spread evenly over the set; by default all. A later command may have
            more.

    Raises:
        InputError: the folder cannot be used, or there are fewer images.
    """
    indices = _chosen(len(images), num_images)
    settings = {
        "task": config.task,
        "operator": recorded_operator(config.operator),
        "noise": recorded_noise(config.noise),
        "image_size": images.image_size,
        "seed": seed,
        "baselines": baselines,
    }
    resize = config.bridge.resize if baselines else None
    with Ledger(output, settings, images.folder) as ledger:
        return _Job(images, forward_model, ledger, seed, resize).run(indices)


def _chosen(count: int, wanted: int | None) -> Sequence[int]:
    """All indices below `count`, or as many as wanted, spread evenly."""
    if wanted is None:
        return range(count)
    if wanted > count:
        raise InputError(f"{wanted} images wanted, there are {count}")
    return sorted(spread_order(count)[:wanted])


@dataclass(frozen=True)
class _Job:
    """The work on one image, in steps.

    Attributes:
        resize: that of `image_of`; None leaves the two baselines out.
    """

    images: Dataset
    forward_model: ForwardModel
    ledger: Ledger
    seed: int
    resize: str | None

    def run(self, indices: Sequence[int]) -> FolderReport:
        """Measures the images, in order, and counts them."""
        report, images = FolderReport(), self.images
        uses = Counter(images.name(index) for index in range(len(images)))
        for index in tqdm(indices, desc="degrading", unit="image"):
            name, source = images.name(index), images.source(index)
            try:
                if uses[name] > 1:
                    raise InputError(f"{source}: {SAME_NAME}")
                sha256 = images.sha256(index)
                if self.ledger.is_done(name, source, self.results(name), sha256=sha256):
                    report.skipped += 1
                    continue
                x0 = images[index]
            except (InputError, OSError) as error:
                report.failed.append((source, str(error)))
                continue
            try:
                self.write(*self.degrade(x0, name), name)
            except OSError as error:
                report.failed.append((source, str(error)))
                continue
            self.ledger.record(name, source, sha256=sha256)
            report.done += 1
        return report

    def degrade(self, x0: Tensor, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns the pictures of an image, (C, H, W) in [-1, 1], and its arrays, by folder."""
        rng = keyed_rng("cpu", self.seed, "degrade", name)
        y, operator = self.forward_model.measure(x0[None], [rng])
        pictures, arrays = {"reference": x0}, {}
        if self._has_preview:
            pictures[MEASUREMENT_FOLDER] = y[0]
        if self._has(RandomInpainting):
            pictures["mask"] = 2 * operator.singular_values[0].float() - 1
        if self._has(RandomConvolution):
            arrays[KERNEL_FOLDER] = operator.kernel[0, 0]
            pictures[KERNEL_FOLDER] = picture_of(operator.kernel, operator.kernel.shape[-1])[0]
        if self.resize is not None:
            pictures["lifted"] = image_of(y, operator, self.resize)[0]
            pictures["pseudo_inverse"] = operator.A_dagger(y)[0]
        return pictures, {**arrays, MEASUREMENT_FOLDER: y[0]}

    def write(self, pictures: dict[str, Tensor], arrays: dict[str, Tensor], name: str) -> None:
        """Writes the pictures and, last, the exact measurement."""
        with disk_full_as_input_error(self.ledger.folder):
            for folder, picture in pictures.items():
                save_image(picture, self._path(folder, name, ".png"))
            for folder, array in arrays.items():
                save_array(array, self._path(folder, name, ".npy"))

    def results(self, name: str) -> list[Path]:
        """Returns where the pictures of an image go, and its arrays, the measurement last."""
        pictures = [MEASUREMENT_FOLDER, "reference"] if self._has_preview else ["reference"]
        pictures += ["mask"] if self._has(RandomInpainting) else []
        kernel = [KERNEL_FOLDER] if self._has(RandomConvolution) else []
        pictures += kernel
        pictures += ["lifted", "pseudo_inverse"] if self.resize is not None else []
        files = [self._path(folder, name, ".png") for folder in pictures]
        return files + [self._path(each, name, ".npy") for each in (*kernel, MEASUREMENT_FOLDER)]

    def _path(self, folder: str, name: str, suffix: str) -> Path:
        return self.ledger.folder / folder / (name + suffix)

    @property
    def _has_preview(self) -> bool:
        shape = self.forward_model.operator.measurement_shape
        return len(shape) == 3 and shape[0] in (1, 3)

    def _has(self, family: type) -> bool:
        return isinstance(self.forward_model.operator, family)
