"""Train an ADM diffusion prior on a folder of images, or on the embedded photographs.

The same command goes on where an interrupted run stopped.
"""

from pathlib import Path

from davi.build_training import build_images, build_prior_trainer
from davi.cli import add_device, config_parser, read_config, run_main
from davi.config import PriorRunConfig
from davi.run_folder import RunFolder
from davi.runtime import select_device
from davi.training_loop import run_training


def main() -> None:
    """Parse, build, run."""
    parser = config_parser(__doc__)
    parser.add_argument("--run-dir", type=Path, help="default: runs/<name of the config>")
    add_device(parser)
    arguments = parser.parse_args()
    config = read_config(arguments, PriorRunConfig)
    device = select_device(arguments.device)
    images = build_images(config, "train")
    trainer = build_prior_trainer(config, device)
    run_dir = arguments.run_dir or Path("runs") / arguments.config.stem
    run = RunFolder(run_dir, config, {})
    run_training(trainer, images, run, seed=config.seed, data=config.data, settings=config.train)


if __name__ == "__main__":
    run_main(main)
