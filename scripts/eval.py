"""The same as `davi evaluate`, and `eval.py table CONFIG` the same as `davi table CONFIG`."""

import sys

from davi.commands.program import run_command

if __name__ == "__main__":
    if sys.argv[1:2] == ["table"]:
        run_command("table", sys.argv[2:], prog="eval.py table")
    run_command("evaluate")
