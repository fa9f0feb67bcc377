"""Bring images to the network's size as the release does, and split them.

Crops to the centred square, resizes (bilinear, antialiased) and writes OUTPUT/SPLIT/NAME.png and
OUTPUT/manifest.jsonl. The same command again goes on where it ended. Which images a split has:

  all           every image below the folder
  00000-00999   those whose file names are these numbers
  first:1000    the first ones in the order of their file names
  list:FILE     those named in a text file, one a line

Without --dataset, --train and --validation all images go to OUTPUT/all.
"""

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from davi.commands.options import positive_int

DATASETS = {
    "ffhq": {"validation": "00000-00999", "train": "01000-49999"},
    "imagenet": {"validation": "first:1000", "train": "all"},
}


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what the command line takes."""
    shown = "; ".join(
        f"{name} --validation {rules['validation']} --train {rules['train']}"
        for name, rules in DATASETS.items()
    )
    parser.add_argument("--input", type=Path, required=True, metavar="DIR", help="images")
    parser.add_argument(
        "--validation-input",
        type=Path,
        metavar="DIR",
        help="images of the validation split, if it has a folder of its own",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="a new folder, or to go on in"
    )
    parser.add_argument(
        "--dataset",
        choices=DATASETS,
        help=f"the splits of the paper: {shown} (of ImageNet 100)",
    )
    parser.add_argument("--train", metavar="IMAGES", help="those of the training split")
    parser.add_argument("--validation", metavar="IMAGES", help="those of the validation split")
    parser.add_argument("--size", type=positive_int, default=256, help="side (default 256)")
    parser.add_argument(
        "--num-workers",
        type=positive_int,
        default=os.cpu_count() or 1,
        help="processes that decode (default: one a core)",
    )


def split_rules(arguments: Namespace) -> dict[str, str]:
    """Returns which images each split has, by its name."""
    named = {"validation": arguments.validation, "train": arguments.train}
    rules = DATASETS.get(arguments.dataset, {})
    if arguments.validation_input and not rules:
        rules = {"validation": "all", "train": "all"}
    return rules | {split: rule for split, rule in named.items() if rule} or {"all": "all"}


def run(arguments: Namespace) -> int:
    """Chooses the images of each split and prepares them."""
    from davi.data.image_sets import ImageFolder
    from davi.data.preparing import prepare_images
    from davi.data.selections import select

    folders = {"validation": arguments.validation_input or arguments.input}
    splits = [
        select(split, ImageFolder(folders.get(split, arguments.input), arguments.size), rule)
        for split, rule in split_rules(arguments).items()
    ]
    if arguments.dataset == "imagenet" and not arguments.validation:
        print("note: neither the paper nor the release says which 1000 validation images it used")
    report = prepare_images(splits, arguments.output, arguments.num_workers)
    return report.print_summary("prepared")
