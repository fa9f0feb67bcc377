"""Score restored images against references of the same names.

Prints a table and writes per_image.csv and summary.json.
"""

import argparse
from pathlib import Path

from davi.cli import add_device, run_main
from davi.errors import InputError
from davi.evaluation import METRICS, evaluate_folders
from davi.files import make_folder
from davi.runtime import select_device


def metric_names(text: str) -> tuple[str, ...]:
    """Argument type: comma-separated names of metrics."""
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in METRICS]:
        raise argparse.ArgumentTypeError(f"unknown {unknown}, choose from {','.join(METRICS)}")
    return names


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
        type=metric_names,
        default=METRICS,
        help="comma-separated, default: psnr,ssim,lpips,fid",
    )
    parser.add_argument(
        "--lpips-net", choices=["vgg", "alex"], default="vgg", help="of LPIPS (default vgg)"
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
        lpips_net=arguments.lpips_net,
    )
    print(result.table())
    result.save(output)
    print(f"written to {output}/per_image.csv and {output}/summary.json")


if __name__ == "__main__":
    run_main(main)
