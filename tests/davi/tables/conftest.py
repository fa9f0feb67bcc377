"""A small table that needs no trained network."""

import math
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
from torch import Tensor

from davi.config.yaml_file import load_config
from davi.score import ScoreModel
from davi.system.world import World
from davi.tables.config import TableConfig
from davi.tables.making import make_table
from davi.tables.plan import read_plan
from davi.tables.result import TableResult
from tests.conftest import REPOSITORY
from tests.tiny import ALONE

SOLVER = '''
from typing import ClassVar
from davi.system.runtime import normal_each
from davi.solvers.base import Solver

class Drawn(Solver):
    """Draws around the pseudo-inverse."""

    label: ClassVar[str] = "drawn"
    spread: float = 0.2
    steps: int = 0

    def solve(self, y, operator, noise, prior, rngs):
        x = operator.A_dagger(y) + self.spread * normal_each(operator.image_shape, rngs)
        for _ in range(self.steps):
            prior.predict(x, 500)
        return x
'''
TABLE = """
title: "Table 0: a test"
columns:
  - {id: sr, label: SR x4, config: run.yaml, data_set: photos}
  - {id: holes, label: Holes, config: run.yaml, data_set: photos,
     set: ["operator={name: inpainting, mask: random_box, box_size: 4}"]}
rows:
  - {id: drawn, solver: drawn.yaml, set: {steps: 2}}
  - {id: still, solver: drawn.yaml, set: {spread: 0.0}, label: Still}
metrics: [psnr, ssim, nfe, gmac]
num_images: 5
num_examples: 2
num_samples: 3
batch_size: 2
footnotes: {table: a note}
"""


@pytest.fixture
def home(tmp_path: Path, tiny_prior: Path) -> Path:
    """A folder with a table's YAML, its run, and its solver."""
    shutil.copy(tiny_prior, tmp_path / "prior.safetensors")
    base, prior = REPOSITORY / "configs/tiny.yaml", tmp_path / "prior.safetensors"
    (tmp_path / "run.yaml").write_text(f"extends: {base}\nprior: {{checkpoint: {prior}}}\n")
    (tmp_path / "drawn.py").write_text(SOLVER)
    (tmp_path / "drawn.yaml").write_text("solver: drawn.py\n")
    (tmp_path / "table.yaml").write_text(TABLE)
    return tmp_path


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every batch that a prior is given from now on."""
    sizes, real = [], ScoreModel.eps_and_variance

    def counted(self: ScoreModel, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(x_t))
        return real(self, x_t, t)

    monkeypatch.setattr(ScoreModel, "eps_and_variance", counted)
    return sizes


def make(
    home: Path,
    *overrides: str,
    name: str = "table",
    world: World = ALONE,
    only_cached: bool = False,
    output: Path | None = None,
) -> TableResult | None:
    config = load_config(home / "table.yaml", TableConfig, overrides)
    plan = read_plan(config, home, world.device)
    return make_table(plan, (output or home / "out") / name, world, only_cached=only_cached)


def error_over_photographs(values: Mapping[str, float]) -> float:
    """By its definition, of {name of a crop: value}; see `davi.metrics.means.mean_and_error`."""
    mean, totals = sum(values.values()) / len(values), defaultdict(float)
    for name, value in values.items():
        totals[name.partition("_r")[0]] += value - mean
    squares = sum(total**2 for total in totals.values()) * len(totals) / (len(totals) - 1)
    return math.sqrt(squares) / len(values)
