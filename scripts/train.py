"""Train a DAVI generator by Algorithm 1.

The same command goes on where an interrupted run stopped. SIGTERM and SIGINT (Ctrl-C) end the step,
save and exit with code 75; a second one exits at once. Several processes: torchrun, see
docs/training.md.
"""

from davi.build_training import build_trainer
from davi.cli import run_main
from davi.config import RunConfig
from davi.training_command import train

if __name__ == "__main__":
    run_main(lambda: train(__doc__, RunConfig, build_trainer))
