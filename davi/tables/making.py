"""`scripts/eval.py table`: makes a table, running only what an earlier command has not."""

from pathlib import Path

from davi.commands.options import add_device, config_parser
from davi.config.yaml_file import to_yaml
from davi.system.errors import InputError
from davi.system.files import make_folder
from davi.system.world import FOLDER_PATIENCE, World, join_world
from davi.tables.assembling import absences, assemble
from davi.tables.cache import Cache
from davi.tables.plan import Plan, read_plan, read_table
from davi.tables.result import TableResult
from davi.tables.running import run_missing
from davi.tables.scoring import score_missing
from davi.tables.timing import measure_seconds
from davi.tables.writing import write_table

DESCRIPTION = """\
Make a table: every method on every task, measured in one way, next to the paper's numbers.

Restorations are kept in OUTPUT/cache by all that determines them, so that the same command goes on
after an interruption, another table uses what they share, and a change redoes what it affects.
Several processes: torchrun.
"""


def table_command(words: list[str]) -> None:
    """Makes the table that a command line describes, all of it after `table`."""
    parser = config_parser(DESCRIPTION)
    parser.prog = "eval.py table"
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
    arguments = parser.parse_args(words)
    config = read_table(arguments.config, arguments.set)
    if arguments.print_config:
        print(to_yaml(config), end="")
        return
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


def make_table(plan: Plan, folder: Path, world: World, *, only_cached: bool) -> TableResult | None:
    """Runs what is missing and writes the table; returns it in the first process.

    Args:
        plan: the table.
        folder: where it is written; the cache lies beside it.
        world: the processes; all must call.
        only_cached: run no solver.

    Raises:
        InputError: the folder cannot be written to.
    """
    cache = Cache(make_folder(folder.parent / "cache"))
    folder = make_folder(folder)
    failed = {}
    if not only_cached:
        failed = run_missing(plan, cache, world)
        measure_seconds(plan, cache, folder, world, failed)
    absent_metrics = score_missing(plan, cache, world)
    if not world.is_first:
        return None
    result = assemble(plan, cache, folder, world, failed, absent_metrics)
    write_table(result, folder)
    return result
