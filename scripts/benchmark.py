"""Measure speed, memory and drift on this machine; no weights or data are needed.

train      a step of Algorithm 1, from eager float32 to everything on
sample     Algorithm 2 for one batch, likewise
operators  A, its adjoint and its pseudo-inverse of the five tasks
folder     sample.py from folder to folder against the network alone
data       reading images as training does
cost       one image by DAVI, and by solvers that evaluate the network 20 to 1000 times (Table 13)

Every table compares what was measured in one run. Nothing else should run meanwhile.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from davi.benchmark import Rung, climb, machine, report_files, to_table, write_report
from davi.cli import add_device, positive_int, run_main
from davi.cost import cost_table, restoration_costs
from davi.ladders import data_rungs, folder_rungs, operator_rungs, sampling_rungs, training_rungs
from davi.runtime import select_device
from guided_diffusion.presets import PRESETS

SUBJECTS = ("train", "sample", "operators", "folder", "data", "cost")


def parse_arguments() -> argparse.Namespace:
    """Returns the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject", choices=SUBJECTS, help="what to measure")
    parser.add_argument(
        "--preset", choices=list(PRESETS), default="ffhq_256", help="network (default ffhq_256)"
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=1,
        help="of train, sample and operators (default 1)",
    )
    parser.add_argument(
        "--images", type=positive_int, default=64, help="of folder and data (default 64)"
    )
    parser.add_argument(
        "--workers", type=positive_int, default=2, help="of data: processes that read (default 2)"
    )
    parser.add_argument(
        "--precision", choices=["bf16", "fp16"], default="bf16", help="of the fast rungs"
    )
    parser.add_argument("--compile", action="store_true", help="with rungs for torch.compile")
    parser.add_argument("--repeats", type=positive_int, default=10, help="calls (default 10)")
    parser.add_argument(
        "--output", type=Path, help="JSON to write, with a table in Markdown beside it"
    )
    add_device(parser)
    return parser.parse_args()


def rungs(arguments: argparse.Namespace, workspace: Path) -> Iterator[Rung]:
    """Returns what the command line asks for."""
    device, preset = select_device(arguments.device), arguments.preset
    match arguments.subject:
        case "train" | "sample":
            ladder = {"train": training_rungs, "sample": sampling_rungs}[arguments.subject]
            batch_size, precision = arguments.batch_size, arguments.precision
            return ladder(preset, batch_size, device, precision, arguments.compile)
        case "operators":
            return operator_rungs(preset, arguments.batch_size, device)
        case "folder":
            return folder_rungs(preset, arguments.images, device, workspace)
        case "data":
            return data_rungs(preset, arguments.images, arguments.workers, workspace)


def main() -> None:
    """Parse, measure, report."""
    arguments = parse_arguments()
    device = select_device(arguments.device)
    title = f"{arguments.subject}, {arguments.preset}"
    if arguments.subject in ("train", "sample", "operators"):
        title += f", batch {arguments.batch_size}"
    if arguments.output is not None:
        report_files(arguments.output)  # before the work, not after it
    facts = machine(device)
    if arguments.subject == "cost":
        found = restoration_costs(arguments.preset, device, arguments.repeats)
        table = cost_table(arguments.preset, title, facts, found)
    else:
        with tempfile.TemporaryDirectory() as workspace:
            found = climb(rungs(arguments, Path(workspace)), device, arguments.repeats)
        table = to_table(title, facts, found)
    print(table, end="")
    if arguments.output is not None:
        write_report(arguments.output, title, facts, found, table)


if __name__ == "__main__":
    run_main(main)
