"""Measure speed, memory and drift on this machine; no weights or data are needed.

train      a step of Algorithm 1, from eager float32 to everything on
sample     Algorithm 2 for one batch, likewise
operators  A, its adjoint and its pseudo-inverse of the five tasks
folder     sample.py from folder to folder against the network alone
data       reading images as training does
cost       one image by DAVI, and by solvers that evaluate the network 20 to 1000 times (Table 13)

Every table compares what was measured in one run (of `cost`, each row says whether it is measured
or extrapolated). Nothing else should run meanwhile. `benchmark.py SUBJECT --help` has the options.
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
    """Returns the command line; every subject has the options that it uses."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subjects = parser.add_subparsers(dest="subject", required=True, help="what to measure")
    for subject in SUBJECTS:
        add_options(subjects.add_parser(subject), subject)
    return parser.parse_args()


def add_options(parser: argparse.ArgumentParser, subject: str) -> None:
    """Adds the options of a subject."""
    count = {"type": positive_int, "help": "default %(default)s"}
    parser.add_argument(
        "--preset", choices=PRESETS, default="ffhq_256", help="network (default ffhq_256)"
    )
    if subject in ("train", "sample", "operators"):
        parser.add_argument("--batch-size", default=1, **count)
    if subject in ("folder", "data"):
        parser.add_argument("--num-images", default=64, **count)
    if subject == "data":
        parser.add_argument(
            "--num-workers", type=positive_int, default=2, help="processes that read (default 2)"
        )
    if subject in ("train", "sample"):
        parser.add_argument(
            "--precision", choices=["bf16", "fp16"], default="bf16", help="of the fast rungs"
        )
        parser.add_argument("--compile", action="store_true", help="with rungs for torch.compile")
    parser.add_argument("--repeats", default=10, **count)
    parser.add_argument(
        "--output", type=Path, help="JSON to write, with a table in Markdown beside it"
    )
    add_device(parser)


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
            return folder_rungs(preset, arguments.num_images, device, workspace)
        case "data":
            return data_rungs(preset, arguments.num_images, arguments.num_workers, workspace)


def main() -> None:
    """Parse, measure, report."""
    arguments = parse_arguments()
    device = select_device(arguments.device)
    title = f"{arguments.subject}, {arguments.preset}"
    if "batch_size" in arguments:
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
