"""Measure speed, memory and drift on this machine; nothing has to be downloaded.

train      a step of Algorithm 1, from eager float32 to everything on
sample     Algorithm 2 for one batch, likewise
operators  A, its adjoint and its pseudo-inverse of the five tasks, beside deepinv's if installed
folder     davi sample from folder to folder against the network alone
data       reading images as training does
cost       one image by DAVI, and by solvers that evaluate the network 20 to 1000 times (Table 13)
solvers    one image by every solver, each measured, and against its bare network evaluations
startup    imports and --help, each in a new process
posterior  how far the samples of every solver are from exact Gaussian posteriors

Every table compares what was measured in one run (of `cost`, each row says whether it is measured
or extrapolated). Nothing else should run meanwhile. `davi benchmark SUBJECT --help` has the
options.
"""

import argparse
from pathlib import Path

from davi.commands.options import add_device, config_file, positive_int
from davi.system.choices import PRECISIONS
from guided_diffusion.presets import PRESETS

NETWORK_SUBJECTS = ("train", "sample", "operators", "folder", "data", "cost", "solvers")
SUBJECTS = (*NETWORK_SUBJECTS, "startup", "posterior")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a sub-command for every subject, which has the options that it uses."""
    subjects = parser.add_subparsers(dest="subject", required=True, help="what to measure")
    for subject in SUBJECTS:
        add_options(subjects.add_parser(subject), subject)


def run(arguments: argparse.Namespace) -> None:
    """Measures."""
    from davi.benchmarks.subjects import measure

    measure(arguments)


def add_options(parser: argparse.ArgumentParser, subject: str) -> None:
    """Adds the options of a subject."""
    parser.add_argument(
        "--output", type=Path, help="JSON to write, with a table in Markdown beside it"
    )
    if subject in ("solvers", "posterior"):
        parser.add_argument(
            "config",
            metavar="CONFIG",
            nargs="?",
            type=config_file,
            default=f"configs/benchmarks/{subject}.yaml",
            help="YAML that lists solvers (default %(default)s)",
        )
    if subject == "startup":
        parser.add_argument("--repeats", type=positive_int, default=10, help="default 10")
    if subject in NETWORK_SUBJECTS:
        add_network_options(parser, subject)
    else:  # posteriors are exact, in float64; to start up needs no device
        parser.set_defaults(device="cpu")


def add_network_options(parser: argparse.ArgumentParser, subject: str) -> None:
    """Adds the options of a subject that evaluates a network or an operator of its size."""
    count = {"type": positive_int, "help": "default %(default)s"}
    preset = "photos_64" if subject == "solvers" else "ffhq_256"
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default=preset,
        help="network (default %(default)s); random weights, but for `solvers` with its run's own",
    )
    if subject == "solvers":
        parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default fp32")
        parser.add_argument(
            "--evaluations",
            type=positive_int,
            default=100,
            help="of the network, that each solver makes at least (default %(default)s)",
        )
    else:
        parser.add_argument("--repeats", default=10, **count)
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
    add_device(parser)
