"""Restore a folder of degraded images by Algorithm 2: one network evaluation per sample.

Reads .npy (float, [-1, 1] scale), png, jpg, webp, tiff and bmp, nested folders included, or the
output folder of `davi degrade`, and writes PNG files of the same names. Where the damage is the
same everywhere, pictures may have any size: they are restored in overlapping pieces. A result
depends on the file's content, its name and the seed: bit for bit on a CPU, where images are
evaluated one by one, and up to the rounding of its kernels on a GPU. Running the command again does
what is missing. Exit code 1: some files could not be used. Several processes, on several GPUs,
share the folder when started by `torchrun --nproc_per_node=N -m davi sample ...`.
"""

import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

from davi.commands.options import (
    add_device,
    add_form,
    add_generator,
    level,
    positive_int,
    read_generator,
)
from davi.system.choices import ROUNDINGS


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what the command line takes."""
    add_generator(parser)
    parser.add_argument(
        "--input", type=Path, required=True, metavar="DIR_OR_FILE", help="measurements"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="a new folder, or to go on in"
    )
    parser.add_argument(
        "--num-samples",
        type=positive_int,
        default=1,
        help="per measurement; several come with mean and standard deviation (default 1)",
    )
    parser.add_argument(
        "--interval",
        type=level,
        metavar="LEVEL",
        help="of several samples: low and high of each pixel, such as 0.9 (19 samples)",
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="DIR_OR_FILE",
        help="widen the intervals until they hold on a folder of davi degrade, or as the "
        "calibration.json of an earlier command says",
    )
    parser.add_argument("--batch-size", type=positive_int, default=8, help="on a GPU (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default 0)")
    parser.add_argument(
        "--mask",
        type=Path,
        metavar="DIR_OR_FILE",
        help="inpainting: white where a pixel is known; one mask, or NAME.png for every image",
    )
    parser.add_argument(
        "--rounding",
        choices=ROUNDINGS,
        default="nearest",
        help="of the pictures to 8 bits (default nearest); the authors' code truncates",
    )
    add_form(parser)
    add_device(parser)


def run(arguments: Namespace) -> int:
    """Loads the generator and restores."""
    from davi.folders.restoring import restore_folder
    from davi.pictures.form import Form
    from davi.system.errors import InputError
    from davi.system.world import FOLDER_PATIENCE, join_world

    if arguments.bit_depth == 16 and arguments.rounding != "nearest":
        raise InputError("--rounding: is for 8 bits; leave out --bit-depth 16 or --rounding")
    if arguments.calibrate is not None and arguments.interval is None:
        raise InputError("--calibrate: widens intervals; add --interval LEVEL, such as 0.9")
    with join_world(arguments.device, FOLDER_PATIENCE) as world:
        restorer = read_generator(arguments, world.device)
        start = time.perf_counter()
        report = restore_folder(
            restorer,
            arguments.input,
            arguments.output,
            num_samples=arguments.num_samples,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
            masks=arguments.mask,
            form=Form(arguments.rounding, arguments.bit_depth, arguments.keep_format),
            level=arguments.interval,
            calibrated_by=arguments.calibrate,
            world=world,
        )
        seconds = time.perf_counter() - start
    if world.is_first:
        report.print_summary("restored")
        if report.done:
            print(f"{report.done * arguments.num_samples / seconds:.1f} images per second")
    return report.exit_code
