"""Train an ADM diffusion prior on a folder of images, or on the embedded photographs.

The same command goes on where an interrupted run stopped. SIGTERM and SIGINT (Ctrl-C) end the step,
save and exit with code 75; a second one exits at once. Several processes: torchrun, see
docs/training.md.
"""

from davi.build_training import build_prior_trainer
from davi.cli import run_main
from davi.config import PriorRunConfig
from davi.training_command import Method, train

if __name__ == "__main__":
    run_main(lambda: train(__doc__, {None: Method(PriorRunConfig, build_prior_trainer)}))
