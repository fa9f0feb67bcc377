"""Train an ADM diffusion prior on a folder of images, or on the embedded photographs.

The same command goes on where an interrupted run stopped. SIGTERM and SIGINT (Ctrl-C) end the step,
save and exit with code 75; a second one exits at once. Several processes: torchrun, see
docs/training.md.
"""

from pathlib import Path

from davi.build_training import build_images, build_prior_trainer, input_record
from davi.cli import EXIT_STOPPED, add_run_arguments, config_parser, read_config, run_main
from davi.config import PriorRunConfig
from davi.run_folder import RunFolder
from davi.scan import require_readable
from davi.training_loop import run_training
from davi.world import join_world


def main() -> int:
    """Parse, build, run."""
    parser = config_parser(__doc__)
    add_run_arguments(parser)
    arguments = parser.parse_args()
    config = read_config(arguments, PriorRunConfig)
    run_dir = arguments.run_dir or Path("runs") / arguments.config.stem
    with join_world(arguments.device) as world:
        images = build_images(config, "train")
        if config.data.on_error == "fail":
            require_readable(images, config.data.num_workers, world)
        trainer = build_prior_trainer(config, world)
        run = world.on_first(
            lambda: RunFolder(run_dir, config, input_record(config), arguments.allow_changes)
        )
        finished = run_training(
            trainer,
            images,
            run,
            seed=config.seed,
            data=config.data,
            settings=config.train,
            world=world,
        )
    return 0 if finished else EXIT_STOPPED


if __name__ == "__main__":
    run_main(main)
