"""What `davi benchmark` does once its command line is read."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from davi.benchmarks.cost import cost_table, restoration_costs
from davi.benchmarks.ladders import (
    data_rungs,
    folder_rungs,
    sampling_rungs,
    training_rungs,
)
from davi.benchmarks.measuring import climb, machine, report_files, to_table, write_report
from davi.benchmarks.operator_timing import operator_table, time_operators
from davi.benchmarks.posterior import distance_table, measure_distances
from davi.benchmarks.solver_timing import solver_table, time_solvers
from davi.benchmarks.startup import startup_rungs
from davi.system.runtime import select_device


def measure(arguments: argparse.Namespace) -> None:
    """Measures what the command line asks for, prints the table and writes the report.

    Raises:
        InputError, CheckpointError: something the user can mend.
    """
    device = select_device(arguments.device)
    if arguments.output is not None:
        report_files(arguments.output)  # before the work, not after it
    title, facts = _title(arguments), machine(device)
    with tempfile.TemporaryDirectory() as workspace:
        found, table = _measured(arguments, device, Path(workspace))
    shown = ", ".join(f"{key} {value}" for key, value in facts.items())
    report = f"# {title}\n\n{shown}\n\n{table}"
    print(report, end="")
    if arguments.output is not None:
        write_report(arguments.output, title, facts, found, report)


def _title(arguments: argparse.Namespace) -> str:
    if arguments.subject == "posterior":
        return "Distance of samples from exact posteriors"
    if arguments.subject == "startup":
        return "startup"
    title = f"{arguments.subject}, {arguments.preset}"
    if arguments.subject == "solvers":
        title += f", {arguments.precision}"
    if "batch_size" in arguments:
        title += f", batch {arguments.batch_size}"
    return title


def _measured(
    arguments: argparse.Namespace, device: torch.device, workspace: Path
) -> tuple[list[Any], str]:
    """The lines of the table as dataclasses, and the table in Markdown."""
    match arguments.subject:
        case "cost":
            found = restoration_costs(arguments.preset, device, arguments.repeats)
            return found, cost_table(arguments.preset, found)
        case "operators":
            found = time_operators(
                arguments.preset, arguments.batch_size, device, arguments.repeats
            )
            return found, operator_table(found)
        case "posterior":
            found = measure_distances(arguments.config)
            return found, distance_table(found)
        case "solvers":
            found = time_solvers(
                arguments.config,
                arguments.preset,
                arguments.precision,
                device,
                arguments.evaluations,
                workspace,
            )
            return found, solver_table(found)
        case "train" | "sample":
            ladder = {"train": training_rungs, "sample": sampling_rungs}[arguments.subject]
            batch_size, precision = arguments.batch_size, arguments.precision
            rungs = ladder(arguments.preset, batch_size, device, precision, arguments.compile)
        case "folder":
            rungs = folder_rungs(arguments.preset, arguments.num_images, device, workspace)
        case "startup":
            rungs = startup_rungs()
        case "data":
            num_images, num_workers = arguments.num_images, arguments.num_workers
            rungs = data_rungs(arguments.preset, num_images, num_workers, workspace)
    found = climb(rungs, device, arguments.repeats)
    return found, to_table(found)
