"""Score restored images against references of the same names.

Prints a table that says how every number is defined, and writes per_image.csv and summary.json.

eval.py --reference DIR --restored DIR                     images that are there
eval.py --checkpoint FILE --measured DIR --output DIR      restores a folder of degrade.py first
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from davi.cli import add_device, add_generator, names_of, positive_int, read_generator, run_main
from davi.errors import InputError
from davi.evaluation import LPIPS_DEFAULT, METRICS, evaluate_folders
from davi.images import ROUNDINGS
from davi.protocols import LPIPS_VARIANTS
from davi.runtime import select_device
from davi.scoring import new_evaluation, restore_measured


def parse_arguments() -> argparse.Namespace:
    """Returns the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, metavar="DIR", help="true images")
    parser.add_argument("--restored", type=Path, metavar="DIR", help="images to judge")
    add_generator(parser, required=False)
    parser.add_argument("--measured", type=Path, metavar="DIR", help="folder of degrade.py")
    parser.add_argument(
        "--rounding",
        type=names_of(ROUNDINGS),
        default=ROUNDINGS[:1],
        help=f"which of {','.join(ROUNDINGS)}: how restorations become 8 bits (default nearest)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the restorations (default 0)")
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
    return parser.parse_args()


def folders(arguments: argparse.Namespace) -> Iterator[tuple[Path, Path, Path]]:
    """Yields reference, restored and output folder of each evaluation, restored if need be."""
    if arguments.checkpoint is None:
        if arguments.reference is None or arguments.restored is None:
            raise InputError("give --reference and --restored, or --checkpoint and --measured")
        restored = arguments.restored.resolve()
        default = restored.with_name(f"{restored.name}-eval")
        yield arguments.reference, arguments.restored, arguments.output or default
        return
    if arguments.measured is None or arguments.output is None:
        raise InputError("--checkpoint needs --measured (a folder of degrade.py) and --output")
    restorer, origin = read_generator(arguments, select_device(arguments.device))
    for rounding in arguments.rounding:
        folder = arguments.output / f"restored_{rounding}"
        restore_measured(
            restorer,
            origin,
            arguments.measured,
            folder,
            rounding=rounding,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
        )
        yield arguments.measured / "reference", folder, folder.with_name(f"{folder.name}-eval")


def main() -> None:
    """Parse, restore if asked to, score, write."""
    arguments = parse_arguments()
    for reference, restored, output in folders(arguments):
        new_evaluation(output, arguments.overwrite)
        result = evaluate_folders(
            reference,
            restored,
            arguments.metrics,
            device=select_device(arguments.device),
            lpips=arguments.lpips,
            batch_size=arguments.batch_size,
        )
        print(result.table())
        result.save(output)
        print(f"written to {output}/per_image.csv and {output}/summary.json")


if __name__ == "__main__":
    run_main(main)
