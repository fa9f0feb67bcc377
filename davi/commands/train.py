"""Train a DAVI generator by Algorithm 1, or what the config names as `method`: i2sb or teacher.

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
    from davi.config.other_runs import I2SBRunConfig, TeacherRunConfig
    from davi.config.schema import RunConfig
    from davi.runs.build import build_i2sb_trainer, build_teacher_trainer, build_trainer

    methods = {
        None: (RunConfig, build_trainer),
        "i2sb": (I2SBRunConfig, build_i2sb_trainer),
        "teacher": (TeacherRunConfig, build_teacher_trainer),
    }
    return train(arguments, methods)
