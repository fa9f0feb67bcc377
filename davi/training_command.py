"""What the two training scripts do; they differ in what they build."""

from collections.abc import Callable
from pathlib import Path

from davi.build_training import build_images, input_record
from davi.cli import EXIT_STOPPED, add_run_arguments, config_parser, read_config
from davi.run_folder import RunFolder
from davi.scan import require_readable
from davi.section import Section
from davi.training_loop import Learner, run_training
from davi.world import World, join_world


def train(
    description: str, model: type[Section], build: Callable[[Section, World], Learner]
) -> int:
    """Trains as the command line says, and returns the exit code.

    Args:
        description: of the script, for --help.
        model: RunConfig or PriorRunConfig.
        build: makes the learner of such a configuration.

    Raises:
        InputError, CheckpointError: something the user can mend.
    """
    parser = config_parser(description)
    add_run_arguments(parser)
    arguments = parser.parse_args()
    config = read_config(arguments, model)
    run_dir = arguments.run_dir or Path("runs") / arguments.config.stem
    with join_world(arguments.device) as world:
        if config.train.precision == "fp16" and world.device.type == "cpu" and world.is_first:
            print("note: fp16 is slow on a CPU; fp32 and bf16 are --set train.precision=... away")
        images = build_images(config, "train")
        if config.data.on_error == "fail":
            require_readable(images, config.data.num_workers, world)
        learner = build(config, world)
        run = world.on_first(
            lambda: RunFolder(run_dir, config, input_record(config), arguments.allow_changes)
        )
        finished = run_training(
            learner,
            images,
            run,
            seed=config.seed,
            data=config.data,
            settings=config.train,
            world=world,
        )
    return 0 if finished else EXIT_STOPPED
