"""What the commands share: arguments, and how they are read. Imports no PyTorch at the top."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from davi.system.choices import PRECISIONS
from davi.system.shipped import CHECKPOINTS, CONFIGS, find

if TYPE_CHECKING:
    import torch

    from davi.config.section import Section
    from davi.restorer import Restorer

EXIT_STOPPED = 75  # by a signal, with everything saved: give the command again (EX_TEMPFAIL)


def config_file(text: str) -> Path:
    """Argument type: a YAML file, or the name of one that davi ships."""
    return find(text, CONFIGS)


def network_file(text: str) -> Path:
    """Argument type: a file or folder with a network, or the name of one that davi ships."""
    return find(text, CHECKPOINTS)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds what every command that reads a config takes."""
    parser.add_argument(
        "config",
        metavar="CONFIG",
        type=config_file,
        help="YAML file, or the name of a shipped one, such as photos_inpainting",
    )
    add_overrides(parser, "override one value", example="train.batch_size=4")
    parser.add_argument(
        "--print-config", action="store_true", help="show the resolved config and stop"
    )


def read_config(arguments: argparse.Namespace, model: "type[Section]") -> "Section":
    """Returns the config that the arguments describe; prints it and exits at --print-config.

    Raises:
        InputError: as `load_config`; at --print-config also if the operator does not fit.
    """
    from davi.config.yaml_file import load_config, to_yaml

    config = load_config(arguments.config, model, arguments.set)
    if arguments.print_config:
        if "operator" in model.model_fields:
            from davi.build import build_operator, image_shape

            build_operator(config.operator, image_shape(config))  # refuses what training would
        print(to_yaml(config), end="")
        sys.exit(0)
    return config


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds what both trainings take."""
    add_config(parser)
    parser.add_argument("--run-dir", type=Path, help="default: runs/<name of the config>")
    parser.add_argument(
        "--allow-changes",
        metavar="KEY",
        nargs="+",
        default=[],
        help="go on although these values, or the content of the data they name, have changed",
    )
    add_device(parser)


def add_generator(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds what says which generator restores, and how; see `read_generator`."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=required,
        metavar="RUN_OR_FILE",
        help="run folder, training checkpoint, .safetensors, a generator of the authors, the name "
        "of a shipped one, such as photos_denoising, or hf:user/name on the Hugging Face Hub",
    )
    parser.add_argument(
        "--config",
        type=config_file,
        help="generator of the authors: YAML file of its run, if its file's name does not tell; "
        "read with recipe=release",
    )
    purpose = (
        "generator of the authors: override one value of its config; generator for your own "
        "operator: its code, operator.file=PATH; for your own mask: another, operator.path=PATH"
    )
    add_overrides(parser, purpose, example="bridge.h=0.01")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default fp32")
    parser.add_argument(
        "--compile", action="store_true", help="compile the network first; pays on a GPU"
    )
    parser.add_argument(
        "--size",
        type=image_size,
        metavar="HxW",
        help="size of the restored images, or of the pieces of larger ones, if not the trained one",
    )


def read_generator(arguments: argparse.Namespace, device: "torch.device") -> "Restorer":
    """Returns the restorer that the arguments describe."""
    from davi.restorer import load

    return load(
        arguments.checkpoint,
        device,
        arguments.precision,
        arguments.size,
        arguments.compile,
        arguments.config,
        arguments.set,
    )


def add_overrides(parser: argparse.ArgumentParser, purpose: str, example: str) -> None:
    """Adds --set."""
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=f"{purpose}, e.g. --set {example} (repeatable)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds --device."""
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")


def add_bit_depth(parser: argparse.ArgumentParser) -> None:
    """Adds --bit-depth."""
    parser.add_argument(
        "--bit-depth", type=int, choices=(8, 16), default=8, help="of what is written (default 8)"
    )


def add_form(parser: argparse.ArgumentParser) -> None:
    """Adds how restored pictures become files."""
    add_bit_depth(parser)
    parser.add_argument(
        "--keep-format",
        action="store_true",
        help="write each picture in the format of its input (jpg: quality 95), not as PNG",
    )


def positive_int(text: str) -> int:
    """Argument type: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


def level(text: str) -> float:
    """Argument type: a share of all, without its ends."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must lie between 0 and 1, such as 0.9")
    return value


def add_names(
    parser: argparse.ArgumentParser,
    option: str,
    allowed: Iterable[str],
    default: Sequence[str] | None,
    purpose: str,
) -> None:
    """Adds an option that takes comma-separated names, some of the allowed ones."""
    listed = ",".join(allowed)

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if unknown := [name for name in names if name not in allowed]:
            message = f"unknown {', '.join(unknown)}, choose from {listed}"
            raise argparse.ArgumentTypeError(message)
        return names

    parser.add_argument(
        option, type=parse, default=default, metavar="NAMES", help=f"some of {listed}: {purpose}"
    )


def image_size(text: str) -> tuple[int, int]:
    """Argument type: HxW, for example 256x384."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()) or "0" in (height, width):
        raise argparse.ArgumentTypeError(f"{text}: write it as HxW, for example 256x384")
    return int(height), int(width)
