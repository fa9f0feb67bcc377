"""Train a DAVI generator by Algorithm 1, or an I2SB network if the config says `method: i2sb`.

The same command goes on where an interrupted run stopped. SIGTERM and SIGINT (Ctrl-C) end the step,
save and exit with code 75; a second one exits at once. Several processes: torchrun, see
docs/training.md.
"""

from davi.commands.options import run_main
from davi.commands.training import Method, train
from davi.config.schema import I2SBRunConfig, RunConfig
from davi.runs.build import build_i2sb_trainer, build_trainer

METHODS = {
    None: Method(RunConfig, build_trainer),
    "i2sb": Method(I2SBRunConfig, build_i2sb_trainer),
}

if __name__ == "__main__":
    run_main(lambda: train(__doc__, METHODS))
