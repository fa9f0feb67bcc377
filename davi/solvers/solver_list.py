"""A line of the files in configs/benchmarks/: a solver, and what is changed about it."""

import os
from pathlib import Path
from typing import Any

from pydantic import Field

from davi.config.section import FilePath, Section
from davi.solvers.base import Solver
from davi.solvers.solver_file import read_solver
from davi.system.errors import InputError


class ListedSolver(Section):
    """A row of a table to be measured.

    Attributes:
        solver: YAML of configs/solvers/, relative to the file that names it.
        data_set: whose hyperparameters count.
        set: hyperparameters that win over those.
        note: for the table.
    """

    solver: FilePath
    data_set: str = "ffhq"
    set: dict[str, Any] = Field(default_factory=dict)
    note: str = ""

    @property
    def name(self) -> str:
        """What to call it where it cannot be read."""
        return Path(self.solver).stem

    def read(self, folder: Path, task: str) -> Solver:
        """Returns the solver, set up for a task.

        Args:
            folder: of the file that names it.
            task: name of the inverse problem.

        Raises:
            InputError: there is no such file; as `read_solver`.
        """
        path = Path(os.path.normpath(folder / self.solver))  # as messages show it
        if not path.is_file():
            raise InputError(f"{path} does not exist")
        return read_solver(path, self.data_set, task, self.set)
