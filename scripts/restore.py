"""The same as `davi restore`."""

from davi.commands.program import run_command

if __name__ == "__main__":
    run_command("restore")
