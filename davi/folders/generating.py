"""Fills a folder with images drawn from a diffusion prior: training data without photographs."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler
from tqdm import tqdm

from davi.build import ImageShape
from davi.data.images import require_picture, save_image
from davi.priors.sampling import ddim_sample, ddpm_sample
from davi.priors.weight_file import read_prior_file
from davi.schedule import Schedule
from davi.score import ScoreModel
from davi.system.errors import InputError
from davi.system.files import disk_full_as_input_error, has_content
from davi.system.ledger import FolderReport, Ledger
from davi.system.runtime import keyed_rng, normal_each
from davi.system.world import World
from davi.weights.network_file import weights_file

FOLDER_SIZE = 1000  # images per subfolder


def load_prior(
    path: str | Path, device: str | torch.device, precision: str = "fp32"
) -> tuple[ScoreModel, ImageShape]:
    """Returns a prior, ready to be evaluated, and the (C, H, W) of its images.

    Args:
        path: its file, its run folder, or the name of a shipped one, such as "photos_prior".
        device: where to run.
        precision: fp32, bf16 or fp16.

    Raises:
        InputError, CheckpointError: as `read_prior_file`.
    """
    file = read_prior_file(weights_file(Path(path)))
    model = ScoreModel(
        file.network(), Schedule.named(file.schedule), precision, prediction=file.prediction
    ).to(device)
    return model, (file.unet.in_channels, file.unet.image_size, file.unet.image_size)


def image_path(number: int) -> Path:
    """Returns where image `number` is, relative to the folder that is filled."""
    return Path(f"{number // FOLDER_SIZE:03d}", f"{number:06d}.png")


def generate_images(
    model: ScoreModel,
    image_shape: ImageShape,
    output: Path,
    *,
    num_images: int,
    sampler: str,
    num_steps: int,
    seed: int,
    batch_size: int,
    origin: dict[str, Any],
    world: World,
) -> FolderReport:
    """Writes images 0 .. num_images - 1 that are not there yet, and returns how many were.

    Of several processes each draws its share; the report is that of all. An image is a function of
    the seed and its number: bit for bit on a CPU, where images are drawn one by one, since kernels
    round differently for another batch size; up to that rounding on a GPU.

    Args:
        model: the prior.
        image_shape: (C, H, W).
        output: a new folder, or one that this command has begun, be it for fewer images.
        num_images: size of the data set.
        sampler: "ddpm" or "ddim".
        num_steps: network evaluations per image.
        seed: of the draws.
        batch_size: images per network evaluation on a GPU.
        origin: which prior this is, for the record.
        world: the processes that share the work; all must call.

    Raises:
        InputError: the folder cannot be used, or the prior's result is not finite.
    """
    require_picture(image_shape[0], "this prior")
    settings = {**origin, "sampler": sampler, "steps": num_steps, "seed": seed}
    mine = range(world.rank, num_images, world.size)
    batch_size = 1 if world.device.type == "cpu" else batch_size
    with Ledger(output, settings, world=world):
        missing = [number for number in mine if not has_content(output / image_path(number))]
        if world.is_first and (output / image_path(num_images)).exists():
            print(f"note: {output} has more than {num_images} images, and training takes them all")
        report = FolderReport(skipped=len(mine) - len(missing))
        bar = tqdm(total=len(missing), desc="drawing", unit="image", disable=not world.is_first)
        with bar:
            for batch in BatchSampler(missing, batch_size, drop_last=False):
                rngs = [keyed_rng("cpu", seed, "generate", number) for number in batch]
                # Drawn on the CPU: the same on every device.
                z = normal_each(image_shape, rngs).to(world.device)
                images = _draw(model, z, sampler, num_steps, rngs)
                for image, number in zip(images, batch, strict=True):
                    _save(image, output / image_path(number), report)
                bar.update(len(batch))
        return FolderReport.of_all(world.gather(report))


def _save(image: Tensor, path: Path, report: FolderReport) -> None:
    """Writes an image and counts it; one that cannot be written is listed."""
    try:
        with disk_full_as_input_error(path.parents[1]):
            save_image(image, path)
        report.done += 1
    except OSError as error:
        report.failed.append((path, str(error)))


def _draw(
    model: ScoreModel, z: Tensor, sampler: str, num_steps: int, rngs: list[torch.Generator]
) -> Tensor:
    """One image per generator, (B, C, H, W) in [-1, 1], from the noise z."""
    if sampler == "ddim":
        images = ddim_sample(model, z, num_steps)
    else:
        images = ddpm_sample(model, z, num_steps, rngs)
    if not torch.isfinite(images).all():
        raise InputError(
            "the prior returned NaN or infinity: its training diverged, or its activations "
            f"overflow in {model.precision}"
        )
    return images
