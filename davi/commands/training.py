"""What the two training commands do; they differ in what they build."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from davi.commands.options import EXIT_STOPPED, read_config
from davi.config.section import Section
from davi.config.yaml_file import read_method
from davi.data.scan import require_readable
from davi.runs.build import build_images
from davi.runs.inputs import input_record
from davi.runs.loop import run_training
from davi.runs.run_folder import RunFolder
from davi.system.errors import InputError
from davi.system.world import World, join_world
from davi.training.learner import Learner

# What a command can train: how it is configured, and what makes the learner of that.
Method = tuple[type[Section], Callable[[Section, World], Learner]]


def train(arguments: argparse.Namespace, methods: Mapping[str | None, Method]) -> int:
    """Trains as the command line says, and returns the exit code.

    Args:
        arguments: of a command that `add_run` made.
        methods: by the `method` that a configuration names; None where it names none.

    Raises:
        InputError, CheckpointError: something the user can mend.
    """
    name = read_method(arguments.config, arguments.set)
    if name not in list(methods):  # of a list, for what cannot be hashed
        known = ", ".join(method for method in methods if method) or "no such key"
        raise InputError(
            f"{arguments.config}: method: {name!r} is nothing this command trains; allowed: {known}"
        )
    model, build = methods[name]
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
