"""From a table's YAML to what must be restored, and to the reasons why some of it cannot be."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from davi.config.schema import RunConfig
from davi.config.section import Section
from davi.config.yaml_file import load_config, to_yaml
from davi.networks.diffusers_unet import DiffusersNetwork
from davi.solvers.base import Solver
from davi.solvers.solver_file import SolverFile, read_solver, solver_class
from davi.system.errors import InputError
from davi.system.files import sha256_of
from davi.tables.cache import digest_of
from davi.tables.code_hash import code_hash
from davi.tables.config import ColumnConfig, RowConfig, TableConfig
from davi.tables.problem import Problem, open_problem
from davi.tables.result import NOT_APPLICABLE
from davi.weights.network_file import weights_file
from guided_diffusion.unet import UNetModel

NO_CHECKPOINT = "key 'checkpoint' is missing"
# Part of every key: to be raised when measuring or running changes in a way that changes results.
FORMAT = 1

Place = tuple[str, str]  # row id, column id


@dataclass(frozen=True)
class Job:
    """A cell that can be run.

    Attributes:
        solver: the method, with its hyperparameters.
        problem: the column.
        num_images: how many of the problem's images are scored, from the first on.
        facts: all that determines a restoration, apart from the image and the sample's number.
        digest: of the facts.
    """

    solver: Solver
    problem: Problem
    num_images: int
    facts: dict[str, Any]
    digest: str

    def key(self, position: int, sample: int) -> str:
        """Returns the key of a restoration in the cache."""
        name, sha256 = self.problem.names[position], self.problem.sha256[position]
        return digest_of([self.digest, name, sha256, sample])


@dataclass(frozen=True)
class Plan:
    """A table that is to be made.

    Attributes:
        config: the table.
        rows: {id: label}.
        problems: {column id: the column}, of those that can be measured.
        jobs: cells that can be run.
        absent: why the others cannot.
        num_examples: images that are shown, the first of every problem.
        resolved: configurations and hyperparameters as YAML.
    """

    config: TableConfig
    rows: dict[str, str]
    problems: dict[str, Problem]
    jobs: dict[Place, Job]
    absent: dict[Place, str]
    num_examples: int
    resolved: str


class _Resolved(Section):
    """What the record of a table says about its configuration."""

    table: TableConfig
    columns: dict[str, dict[str, Any]]
    hyperparameters: dict[str, dict[str, Any]]


def read_plan(config: TableConfig, folder: Path, device: torch.device) -> Plan:
    """Returns what a table consists of.

    Args:
        config: the table.
        folder: what its paths are relative to.
        device: where it will be run.

    Raises:
        InputError: a file of a column or a row is missing or wrong. Weights and images may be
            missing.
    """
    runs = {
        column.id: load_config(folder / column.config, RunConfig, column.set)
        for column in config.columns
    }
    problems, reasons = {}, {}
    for column in config.columns:
        run = runs[column.id]
        try:
            problems[column.id] = open_problem(column, run, config.num_images, config.seed)
        except InputError as error:
            reasons[column.id] = str(error)
    jobs, absent, hyperparameters = {}, {}, {}
    for row in config.rows:
        for column in config.columns:
            place = row.id, column.id
            try:
                solver = _solver(row, column, folder, runs[column.id].task)
                hyperparameters.setdefault(row.id, {})[column.id] = solver.model_dump(mode="json")
                if column.id in reasons:
                    raise _AbsentError(reasons[column.id])
                jobs[place] = _job(row, solver, problems[column.id], config, device)
            except _AbsentError as reason:
                absent[place] = str(reason)
    columns = {column: run.model_dump(mode="json") for column, run in runs.items()}
    resolved = _Resolved(table=config, columns=columns, hyperparameters=hyperparameters)
    fewest = min([row.num_images or config.num_images for row in config.rows])
    return Plan(
        config=config,
        rows={row.id: row.label or _label(row, folder) for row in config.rows},
        problems=problems,
        jobs=jobs,
        absent=absent,
        num_examples=min(config.num_examples, fewest, config.num_images),
        resolved=to_yaml(resolved),
    )


class _AbsentError(Exception):
    """Why a cell has no numbers."""


def _label(row: RowConfig, folder: Path) -> str:
    if row.solver is None:
        return row.id
    path = folder / row.solver
    return solver_class(load_config(path, SolverFile).solver, path.parent).label


def _solver(row: RowConfig, column: ColumnConfig, folder: Path, task: str) -> Solver:
    """The method of a cell.

    Raises:
        _AbsentError: it is not run here, or no checkpoint of it is named.
        InputError: its file is missing or wrong.
    """
    if row.only is not None and column.id not in row.only:
        raise _AbsentError(NOT_APPLICABLE)
    if row.absent is not None:
        raise _AbsentError(row.absent)
    path = folder / row.solver
    overrides = {**row.set, **row.columns.get(column.id, {})}
    try:
        return read_solver(path, column.data_set, task, overrides)
    except InputError as error:
        if NO_CHECKPOINT not in str(error):
            raise
        raise _AbsentError(
            f"{path.name} names no checkpoint for {column.data_set}, {task}"
        ) from error


def _job(
    row: RowConfig, solver: Solver, problem: Problem, config: TableConfig, device: torch.device
) -> Job:
    """A cell that can be run.

    Raises:
        _AbsentError: the method cannot solve the problem, or its weights are missing.
    """
    if solver.tasks is not None and problem.config.task not in solver.tasks:
        raise _AbsentError(f"{solver.label} is not defined for {problem.config.task}")
    try:
        solver.require(problem.operator_for([0]), problem.told_noise)
        hyperparameters = _without_paths(solver)
    except InputError as error:
        raise _AbsentError(str(error)) from error
    # The class is found by its module's name, which files in other folders may share.
    code = (type(solver), type(solver).solve, UNetModel, DiffusersNetwork)
    files = [*problem.source_files(), *(Path(inspect.getfile(each)) for each in code)]
    facts = {
        "format": FORMAT,
        "solver": type(solver).__name__,
        "hyperparameters": hyperparameters,
        **problem.facts,
        "seed": config.seed,
        "precision": config.precision,
        "device": device.type,
        "torch": torch.__version__,
        "code": code_hash(files),
    }
    num_images = min(row.num_images or config.num_images, config.num_images)
    return Job(solver, problem, num_images, facts, digest_of(facts))


def _without_paths(solver: Solver) -> dict[str, Any]:
    """The hyperparameters, with the hash of a file in place of its path.

    Raises:
        InputError: it is missing.
    """
    values = solver.model_dump(mode="json")
    if "checkpoint" in values:
        values["checkpoint"] = sha256_of(weights_file(Path(values["checkpoint"])))
    if values.get("operator_file") is not None:
        values["operator_file"] = sha256_of(Path(values["operator_file"]))
    return values
