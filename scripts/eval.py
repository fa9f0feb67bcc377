"""Score restored images against references of the same names, or make a table of methods.

eval.py --reference DIR --restored DIR                     images that are there
eval.py --checkpoint FILE --measured DIR --output DIR      restores a folder of degrade.py first
eval.py table CONFIG                                       every method on every task of a YAML file

The first two print a table that says how every number is defined, and write per_image.csv and
summary.json. The third has a --help of its own.
"""

import sys

from davi.commands.evaluate import evaluate
from davi.commands.options import run_main
from davi.commands.table import table_command


def main() -> None:
    """One or the other."""
    if sys.argv[1:2] == ["table"]:
        table_command(sys.argv[2:])
    else:
        evaluate(__doc__)


if __name__ == "__main__":
    run_main(main)
