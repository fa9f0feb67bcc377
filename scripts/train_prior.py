"""The same as `davi train-prior`."""

from davi.commands.program import run_command

if __name__ == "__main__":
    run_command("train-prior")
