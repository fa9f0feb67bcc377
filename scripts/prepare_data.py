"""The same as `davi prepare`."""

from davi.commands.program import run_command

if __name__ == "__main__":
    run_command("prepare")
