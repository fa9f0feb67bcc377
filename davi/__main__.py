"""`davi` and `python -m davi`."""

import sys


def main() -> None:
    """Runs the command line. Imports are a part of it: Ctrl-C may come while they last."""
    try:
        from davi.commands import program

        program.main()
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    main()
