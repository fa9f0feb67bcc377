"""Restores a single photograph, without a folder of measurements and without a configuration."""

import time
from pathlib import Path

from torch import Tensor

from davi.config.problem import damage_in_words
from davi.data.images import FORMATS, match_channels
from davi.pictures.form import Form
from davi.pictures.noise import in_words, is_other_noise
from davi.restorer import Restorer
from davi.system.errors import InputError
from davi.system.files import make_folder

RESTORED = "_restored.png"


def result_path(photo: Path, output: Path | None, bit_depth: int, overwrite: bool) -> Path:
    """Returns where the result of a photograph goes.

    Args:
        photo: the photograph.
        output: a file, whose suffix says the format; a folder, for NAME.png; None for
            NAME_restored.png beside the photograph.
        bit_depth: 8 or 16.
        overwrite: a file that is there may be replaced.

    Raises:
        InputError: the file is there, is the photograph, or has a format that does not fit.
    """
    path = photo.with_name(photo.stem + RESTORED) if output is None else output
    if path.is_dir():
        path = path / f"{photo.stem}.png"
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: the name must end in one of {', '.join(FORMATS)}")
    try:
        Form(bit_depth=bit_depth, keep_format=True).suffix(path.suffix)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if path.exists() and path.samefile(photo):
        raise InputError(f"{path}: is the photograph itself; choose another --output")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists; add --overwrite or choose another --output")
    make_folder(path.parent)
    return path


def describe(restorer: Restorer, network: str, sigma: float, origin: str) -> list[str]:
    """Returns lines that say what is assumed of a photograph.

    Args:
        restorer: the generator.
        network: its name.
        sigma: deviation of the noise, on the [-1, 1] scale.
        origin: where sigma is from: "given" or "estimated".
    """
    damage = damage_in_words(restorer.config.operator.model_dump())
    noise = restorer.config.noise
    lines = [
        f"assumed: {restorer.task}{f' ({damage})' if damage else ''}, and Gaussian noise of "
        f"{in_words(sigma)}, {origin}",
        f"restored by {network}, in pieces of {'x'.join(map(str, restorer.image_shape[1:]))}",
    ]
    if noise.name != "gaussian":
        kind = "several kinds of" if noise.name == "mixture" else noise.name
        lines.append(f"note: the generator was trained for {kind} noise")
    elif is_other_noise(sigma, noise.bounds):
        low, high = (in_words(bound) for bound in noise.bounds)
        trained = low if low == high else f"{low} to {high}"
        lines.append(f"note: the generator was trained for {trained}, and does worse at another")
    return lines


def restore_photograph(
    restorer: Restorer,
    picture: Tensor,
    photo: Path,
    output: Path,
    *,
    seed: int,
    batch_size: int,
    form: Form,
) -> str:
    """Writes the restored picture, and returns a line about it.

    Args:
        restorer: the generator.
        picture: (3, H, W) in [-1, 1], the photograph.
        photo: its file.
        output: of `result_path`.
        seed: of the sample.
        batch_size: pieces at a time on a GPU.
        form: bits of the file.

    Raises:
        InputError: the picture has colours that the task has not, or another size than one that
            can be restored.
    """
    y = match_channels(picture, restorer.measurement_shape[0], photo)
    start = time.perf_counter()
    sample = restorer.restore(y[None], 1, seed, [photo.stem], batch_size, progress=True)[0, 0]
    form.save(sample, output)
    sizes = [f"{image.shape[1]}x{image.shape[2]}" for image in (y, sample)]
    return f"{photo}, {sizes[0]} -> {output}, {sizes[1]}, {time.perf_counter() - start:.1f} s"
