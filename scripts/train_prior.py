"""Train an ADM diffusion prior on a folder of images, or on the embedded photographs.

The same command goes on where an interrupted run stopped. SIGTERM and SIGINT (Ctrl-C) end the step,
save and exit with code 75; a second one exits at once. Several processes: torchrun, see
docs/training.md.
"""

from davi.commands.options import run_main
from davi.commands.training import Method, train
from davi.config.schema import PriorRunConfig
from davi.runs.build import build_prior_trainer

if __name__ == "__main__":
    run_main(lambda: train(__doc__, {None: Method(PriorRunConfig, build_prior_trainer)}))
