"""A method with its hyperparameters for each data set and task, from configs/solvers/."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from pydantic import Field

from davi.config.python_file import only_class, public_classes, run_file
from davi.config.section import FilePath, Section
from davi.config.yaml_file import load_config, parse_config
from davi.solvers.base import Solver
from davi.system.errors import InputError

ANY_TASK = "any"
SOLVERS = Path(__file__).parent


class SolverFile(Section):
    """What a file of configs/solvers/ says. Later entries win over earlier ones.

    Attributes:
        solver: name of a file in davi/solvers/, or path of a Python file, relative to the YAML.
        hyperparameters: for every data set and task.
        data_sets: {data set: {task or "any": hyperparameters}}.
    """

    solver: FilePath
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    data_sets: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)


def read_solver(
    path: Path, data_set: str, task: str, overrides: Mapping[str, Any] = MappingProxyType({})
) -> Solver:
    """Returns the method of a YAML file, set up for a task.

    Args:
        path: the file.
        data_set: ffhq, imagenet, photos, ...; one the file does not know has no special values.
        task: name of the inverse problem.
        overrides: hyperparameters that win over those of the file.

    Raises:
        InputError: unreadable file, unknown method or hyperparameter, or a value out of range.
    """
    file = load_config(path, SolverFile)
    special = file.data_sets.get(data_set, {})
    values = {**file.hyperparameters, **special.get(ANY_TASK, {}), **special.get(task, {})}
    solver = solver_class(file.solver, path.parent)
    return parse_config({**values, **overrides}, solver, f"{path} ({data_set}, {task})")


def solver_class(name: str, folder: Path = Path()) -> type[Solver]:
    """Returns the one subclass of `Solver` that a Python file defines.

    Args:
        name: of a file in davi/solvers/, or the path of a Python file, which is run.
        folder: what the path is relative to.

    Raises:
        InputError: no such file, or not one such class in it.
    """
    is_file = name.endswith(".py")
    module = run_file(folder / name, "solver") if is_file else _shipped_module(name)
    return only_class(module, Solver, f"solver {name}")


def solver_names() -> list[str]:
    """Returns the names of the files in davi/solvers/ that hold a method."""
    stems = sorted(path.stem for path in SOLVERS.glob("*.py") if path.stem != "__init__")
    modules = {stem: importlib.import_module(f"davi.solvers.{stem}") for stem in stems}
    return [stem for stem, module in modules.items() if public_classes(module, Solver)]


def _shipped_module(name: str) -> ModuleType:
    if not (SOLVERS / f"{name}.py").is_file():
        allowed = ", ".join(solver_names())
        raise InputError(f"solver {name!r}: unknown; allowed: {allowed}, or a Python file's path")
    return importlib.import_module(f"davi.solvers.{name}")
