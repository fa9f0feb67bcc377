"""Get the public weight files by name: the two ADM priors and the released DAVI generators.

A broken download goes on where it ended when the command is given again. Every file is checked
against its published SHA-256, or, where none was published, against the one recorded at its first
arrival (downloads.json). Existing files are never changed. Exit code 1: some could not be had, 2:
none could.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from davi.commands.program import EXIT_BAD_INPUT
from davi.system.errors import InputError


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what the command line takes."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="see --list")
    parser.add_argument("--list", action="store_true", help="show the names and where files are")
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="DIR",
        help="copy from this folder, on a machine without a network; generators lie in its "
        "sub-folders ffhq and imagenet",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("checkpoints"), help="folder (default checkpoints)"
    )


def run(arguments: Namespace) -> int:
    """Fetches one file after the other."""
    from davi.weights.downloads import PUBLIC_FILES, obtain

    if unknown := [name for name in arguments.names if name not in PUBLIC_FILES]:
        raise InputError(f"{', '.join(unknown)}: unknown; choose from {', '.join(PUBLIC_FILES)}")
    if arguments.list:
        print(table(arguments.output))
        return 0
    if not arguments.names:
        raise InputError("give a NAME, or --list")
    failures = 0
    for name in dict.fromkeys(arguments.names):
        try:
            print(obtain(name, PUBLIC_FILES[name], arguments.output, arguments.source))
        except InputError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            failures += 1
    if failures == 0:
        return 0
    return EXIT_BAD_INPUT if failures == len(set(arguments.names)) else 1


def table(folder: Path) -> str:
    """Returns one line per file: name, whether it is there, where it goes, where it is from."""
    from davi.weights.downloads import PUBLIC_FILES

    rows = []
    for name, public in PUBLIC_FILES.items():
        path = folder / public.file
        state = "there" if path.exists() else "absent"
        origin = public.url or f"by name, in {public.home}"
        rows.append(f"{name:<28}{state:<8}{path!s:<50}{origin}")
    return "\n".join(rows)
