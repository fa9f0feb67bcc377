"""Make a table: every method on every task, measured in one way, next to the paper's numbers.

Restorations are kept in OUTPUT/cache by all that determines them, so that the same command goes on
after an interruption, another table uses what they share, and a change redoes what it affects.
Several processes: torchrun.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from davi.commands.options import add_config, add_device, read_config
from davi.system.errors import InputError


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what the command line takes."""
    add_config(parser)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/tables"),
        metavar="DIR",
        help="holds a folder for each table, and the cache (default runs/tables)",
    )
    parser.add_argument(
        "--only-cached", action="store_true", help="run nothing; write what is there"
    )
    add_device(parser)


def run(arguments: Namespace) -> None:
    """Makes the table and says what is absent."""
    from davi.system.world import FOLDER_PATIENCE, join_world
    from davi.tables.assembling import absences
    from davi.tables.config import TableConfig
    from davi.tables.making import make_table
    from davi.tables.plan import read_plan

    config = read_config(arguments, TableConfig)
    folder = arguments.output / arguments.config.stem
    if folder.name == "cache":
        raise InputError(f"{arguments.config}: a table cannot be called cache; rename the file")
    with join_world(arguments.device, FOLDER_PATIENCE) as world:
        plan = read_plan(config, arguments.config.parent, world.device)
        result = make_table(plan, folder, world, only_cached=arguments.only_cached)
        if result is not None:
            for line in absences(result):
                print(f"absent: {line}")
            print(f"written to {folder}")
