"""Train an ADM diffusion prior on a folder of images, or on the embedded photographs.

The same command goes on where an interrupted run stopped. SIGTERM and SIGINT (Ctrl-C) end the step,
save and exit with code 75; a second one exits at once. Several processes: torchrun, see
docs/training.md.
"""

from argparse import ArgumentParser, Namespace

from davi.commands.options import add_run


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what the command line takes."""
    add_run(parser)


def run(arguments: Namespace) -> int:
    """Trains."""
    from davi.commands.training import train
    from davi.config.schema import PriorRunConfig
    from davi.runs.build import build_prior_trainer

    return train(arguments, {None: (PriorRunConfig, build_prior_trainer)})
