"""Make measurements of clean images: y = A x + n, with operator and noise of a config.

Writes OUTPUT/measurement (exact .npy, and a .png to look at), OUTPUT/reference (the clean images
after crop and resize) and OUTPUT/manifest.jsonl.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from davi.commands.options import add_config, positive_int, read_config


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what the command line takes."""
    add_config(parser)
    parser.add_argument(
        "--input",
        help="clean images: a folder, a .zip file, .tar shards or photos:held_out (default: the "
        "config's data.validation)",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="a new folder, or to go on in"
    )
    parser.add_argument(
        "--num-images",
        type=positive_int,
        help="so many, spread evenly over the input (default: all)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="also write two images that need no network: lifted (enlarged) and pseudo_inverse",
    )


def run(arguments: Namespace) -> int:
    """Builds operator and noise, and measures."""
    import torch

    from davi.build import build_forward_model, image_shape
    from davi.config.schema import RunConfig
    from davi.data.batches import open_images
    from davi.folders.degrading import degrade_images
    from davi.runs.build import build_images

    config = read_config(arguments, RunConfig)
    shape = image_shape(config)
    if arguments.input:
        images = open_images(arguments.input, shape[1], shape[0])
    else:
        images = build_images(config, "validation")
    report = degrade_images(
        images,
        build_forward_model(config, shape, torch.device("cpu")),
        config,
        arguments.output,
        seed=arguments.seed,
        baselines=arguments.baselines,
        num_images=arguments.num_images,
    )
    return report.print_summary("measurements written")
