"""Train several configs with several seeds and score them on the same validation images.

Runs lie in OUTPUT/CONFIG_seedN; those that are there are not trained again, unfinished ones are
gone on with. Prints a Markdown table: PSNR, SSIM and fine detail, each with its standard errors
over images and over seeds, and the difference of the PSNR from that of the first config.
"""

import subprocess
import sys
from argparse import ArgumentParser, Namespace
from itertools import product
from pathlib import Path

from davi.commands.options import add_device, add_overrides, config_file, positive_int


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what the command line takes."""
    parser.add_argument("configs", metavar="CONFIG", nargs="+", type=config_file, help="YAML files")
    parser.add_argument("--num-seeds", type=positive_int, default=2, help="trainings of each (2)")
    add_overrides(parser, "override in every config", example="train.num_iterations=100")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/compare"), help="default: runs/compare"
    )
    add_device(parser)


def run(arguments: Namespace) -> int:
    """Trains and scores."""
    from davi.benchmarks.comparing import comparison_table, score_run
    from davi.config.schema import RunConfig
    from davi.config.yaml_file import load_config
    from davi.runs.build import build_images

    for path in arguments.configs:  # all are read before the first is trained
        load_config(path, RunConfig, arguments.set)
    runs = {
        path: [arguments.output / f"{path.stem}_seed{seed}" for seed in range(arguments.num_seeds)]
        for path in arguments.configs
    }
    trainings = list(product(range(arguments.num_seeds), runs))
    for number, (seed, path) in enumerate(trainings, start=1):
        print(f"training {number} of {len(trainings)}: {path.stem}, seed {seed}", flush=True)
        settings = [f"--set={override}" for override in (*arguments.set, f"seed={seed}")]
        command = [sys.executable, "-m", "davi", "train", path, "--run-dir", runs[path][seed]]
        command += [*settings, "--device", arguments.device]
        if code := subprocess.run(command).returncode:
            return code
    scores = {}
    for path, folders in runs.items():
        images = build_images(load_config(path, RunConfig, arguments.set), "validation")
        scores[path.stem] = [score_run(folder, images, arguments.device) for folder in folders]
    print(comparison_table(scores))
    return 0
