"""Restore a photograph: `davi restore PHOTO --task denoising`.

Takes a picture of any size as cameras and scanners leave it (png, jpg, webp, tiff or bmp of 8 or 16
bits; turned as its EXIF says, in sRGB) and the shipped generator for the task, and says what is
assumed. The noise of the picture is estimated if --sigma is not given. For many pictures there is
`davi sample`.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from davi.commands.options import (
    add_bit_depth,
    add_device,
    add_generator,
    positive_int,
    read_generator,
)


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what the command line takes."""
    parser.add_argument("photo", type=Path, metavar="PHOTO", help="the picture")
    parser.add_argument(
        "--task", help="what happened to it, such as denoising: takes a shipped generator for that"
    )
    add_generator(parser, required=False)
    parser.add_argument(
        "--sigma",
        type=float,
        help="deviation of its noise on the [-1, 1] scale: gray levels of 255 by 127.5",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE_OR_DIR",
        help="a file, whose suffix says the format, or a folder (default PHOTO_restored.png)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_bit_depth(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default 0)")
    parser.add_argument(
        "--batch-size", type=positive_int, default=8, help="pieces at a time on a GPU (default 8)"
    )
    add_device(parser)


def run(arguments: Namespace) -> None:
    """Reads the picture, finds the generator and restores."""
    from davi.data.images import load_image
    from davi.folders.photograph import describe, restore_photograph, result_path
    from davi.pictures.form import Form
    from davi.pictures.noise import estimated_sigma, require_sigma
    from davi.system.errors import InputError
    from davi.system.runtime import select_device
    from davi.weights.by_task import nearest_generator

    photo, sigma = arguments.photo, arguments.sigma
    if (arguments.task is None) == (arguments.checkpoint is None):
        raise InputError("either --task or --checkpoint is needed, such as --task denoising")
    if sigma is not None:
        require_sigma(sigma)
    picture = load_image(photo)
    output = result_path(photo, arguments.output, arguments.bit_depth, arguments.overwrite)
    origin = "estimated" if sigma is None else "given"
    sigma = estimated_sigma(picture) if sigma is None else sigma
    if arguments.checkpoint is None:
        arguments.checkpoint = nearest_generator(arguments.task, sigma).path
    restorer = read_generator(arguments, select_device(arguments.device))
    for line in describe(restorer, arguments.checkpoint.stem, sigma, origin):
        print(line, flush=True)
    how = {"seed": arguments.seed, "batch_size": arguments.batch_size}
    form = Form(bit_depth=arguments.bit_depth)
    print(restore_photograph(restorer, picture, photo, output, form=form, **how))
