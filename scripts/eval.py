"""Score restored images against references of the same names.

Prints a table that says how every number is defined, and writes per_image.csv and summary.json.
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

from davi.cli import add_device, positive_int, run_main
from davi.errors import InputError
from davi.evaluation import LPIPS_DEFAULT, METRICS, evaluate_folders
from davi.files import make_folder
from davi.protocols import LPIPS_VARIANTS
from davi.runtime import select_device


def names_of(allowed: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """Argument type: comma-separated names, some of the allowed ones."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if unknown := [name for name in names if name not in allowed]:
            raise argparse.ArgumentTypeError(f"unknown {unknown}, choose from {','.join(allowed)}")
        return names

    return parse


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR", help="true images")
    parser.add_argument(
        "--restored", type=Path, required=True, metavar="DIR", help="images to judge"
    )
    parser.add_argument(
        "--metrics",
        type=names_of(METRICS),
        default=METRICS,
        help=f"comma-separated, default: {','.join(METRICS)}",
    )
    parser.add_argument(
        "--lpips",
        type=names_of(LPIPS_VARIANTS),
        default=LPIPS_DEFAULT,
        help=f"which of {','.join(LPIPS_VARIANTS)}; default: {','.join(LPIPS_DEFAULT)}",
    )
    parser.add_argument(
        "--batch-size", type=positive_int, default=16, help="images at a time (default 16)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: RESTORED-eval")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier evaluation")
    add_device(parser)
    arguments = parser.parse_args()
    device = select_device(arguments.device)
    restored = arguments.restored.resolve()
    output = arguments.output or restored.with_name(f"{restored.name}-eval")
    if (output / "summary.json").exists() and not arguments.overwrite:
        raise InputError(
            f"{output}: holds an evaluation already; add --overwrite or choose another --output"
        )
    make_folder(output)
    result = evaluate_folders(
        arguments.reference,
        arguments.restored,
        arguments.metrics,
        device=device,
        lpips=arguments.lpips,
        batch_size=arguments.batch_size,
    )
    print(result.table())
    result.save(output)
    print(f"written to {output}/per_image.csv and {output}/summary.json")


if __name__ == "__main__":
    run_main(main)
