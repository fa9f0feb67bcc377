"""A table from its plan to its files, running only what an earlier command has not."""

from pathlib import Path

from davi.system.files import make_folder
from davi.system.world import World
from davi.tables.assembling import assemble
from davi.tables.cache import Cache
from davi.tables.ensembles import score_samples
from davi.tables.plan import Plan
from davi.tables.result import TableResult
from davi.tables.running import run_missing
from davi.tables.scoring import score_missing
from davi.tables.timing import measure_seconds
from davi.tables.work import Work
from davi.tables.writing import write_table


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
    work = Work(plan=plan, cache=cache, folder=make_folder(folder), world=world)
    failed = {}
    if not only_cached:
        failed = run_missing(work)
        measure_seconds(work, failed)
    absent_metrics = score_missing(work)
    score_samples(work)
    if not world.is_first:
        return None
    result = assemble(work, failed, absent_metrics)
    write_table(result, folder)
    return result
