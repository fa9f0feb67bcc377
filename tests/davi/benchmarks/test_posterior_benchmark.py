"""The table of distances from exact posteriors: its quantities, and its rows."""

import json
from pathlib import Path

import pytest
import yaml

from davi.benchmarks.gaussian_posterior import gaussian_problem, smooth_covariance
from davi.benchmarks.posterior import OPERATORS, PosteriorConfig, sigma_y_of
from davi.config.yaml_file import load_config
from tests.conftest import BLIND, CLASSICAL, REPOSITORY

# A solver that knows the prior, and conditions it on y with the Kalman gain K instead of the
# precision: K y + (x - K (A x + n)) for draws x and n. `shrink` and `widen` make it wrong.
CONDITIONING = """
import math
from typing import ClassVar

import torch

from davi.system.runtime import normal_each
from davi.solvers.base import Solver


def along(size):
    return [[math.exp(-abs(i - j) / 2) for j in range(size)] for i in range(size)]


class Conditioning(Solver):
    label: ClassVar[str] = "conditioning"
    shrink: float = 1.0
    widen: float = 1.0

    def solve(self, y, operator, noise, prior, rngs):
        rows = torch.tensor(along(8), dtype=torch.float64)
        channels = torch.full((3, 3), 0.8, dtype=torch.float64).fill_diagonal_(1)
        covariance = torch.einsum("ab,cd,ef->acebdf", channels, rows, rows).reshape(192, 192) / 4
        A = operator.A(torch.eye(192, dtype=torch.float64).view(192, 3, 8, 8)).flatten(1).T
        innovation = A @ covariance @ A.T + noise.sigma_low**2 * torch.eye(len(A))
        gain = torch.linalg.solve(innovation, A @ covariance).T
        mean = y[:1].flatten(1) @ gain.T
        x = normal_each((192,), rngs).double() @ torch.linalg.cholesky(covariance).T
        n = noise.sigma_low * normal_each((len(A),), rngs).double()
        deviation = x - (x @ A.T + n) @ gain.T
        return (self.shrink * mean + self.widen * deviation).view(-1, 3, 8, 8)
"""


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A list of solvers of which some are not there or refuse."""
    (tmp_path / "conditioning.py").write_text(CONDITIONING)
    (tmp_path / "conditioning.yaml").write_text("solver: conditioning.py")
    shipped = REPOSITORY / "configs/solvers"
    solvers = [
        {"solver": "conditioning.yaml"},
        {"solver": "conditioning.yaml", "set": {"shrink": 0.5, "widen": 2.0}, "note": "wrong"},
        {"solver": f"{shipped}/pseudo_inverse.yaml"},
        {"solver": "nowhere/ddrm.yaml"},
        {"solver": "conditioning.yaml", "set": {"stretch": 2.0}, "note": "misspelt"},
        {"solver": f"{shipped}/davi.yaml", "data_set": "photos"},
    ]
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump({"num_samples": 1000, "solvers": solvers}))
    return path


def test_the_quantities_are_what_they_are_said_to_be(
    script: object, listed: Path, tmp_path: Path
) -> None:
    """Exact samples have 0, 1 and 1; half the mean and twice the deviation have gain and spread."""
    report = tmp_path / "report.json"
    code, output = script("benchmark", "posterior", listed, "--output", report)
    assert code == 0, output
    exact, conditioning, wrong, least_squares = json.loads(report.read_text())["rows"][:4]
    for row in (exact, conditioning):
        assert list(row["distances"]) == list(OPERATORS)
        for distance in row["distances"].values():
            assert 0 < distance["mean_error"] < 2.5 / 1000**0.5
            assert distance["gain"] == pytest.approx(1, abs=0.02)
            assert distance["spread"] == pytest.approx(1, abs=0.03)
    for task, distance in wrong["distances"].items():
        problem = gaussian_problem(
            OPERATORS[task](), sigma_y_of(task), smooth_covariance((3, 8, 8))
        )
        half = problem.mean.norm() / 2 / problem.covariance.trace().sqrt()
        assert distance["mean_error"] == pytest.approx(half.item(), abs=0.1)
        assert distance["gain"] == pytest.approx(0.5, abs=0.04)
        assert distance["spread"] == pytest.approx(2, abs=0.06)
    assert all(each["spread"] < 1e-6 for each in least_squares["distances"].values())
    assert (wrong["settings"], wrong["note"]) == ("shrink 0.5, widen 2.0", "wrong")
    assert report.with_suffix(".md").read_text() in output


def test_what_cannot_be_measured_is_a_row_with_its_reason(
    script: object, listed: Path, tmp_path: Path
) -> None:
    values = yaml.safe_load(listed.read_text())
    listed.write_text(yaml.safe_dump({"num_samples": 2, "solvers": values["solvers"][3:]}))
    report = tmp_path / "report.json"
    code, output = script("benchmark", "posterior", listed, "--output", report)
    assert code == 0, output
    _, missing, misspelt, trained = json.loads(report.read_text())["rows"]
    assert missing["distances"] == misspelt["distances"] == trained["distances"] == {}
    assert "nowhere/ddrm.yaml does not exist" in missing["note"]
    assert "unknown key 'stretch'" in misspelt["note"]
    assert misspelt["note"].endswith("; misspelt")
    assert (trained["method"], trained["note"]) == ("DAVI", "absent: needs training")
    assert "| DAVI |  | - | - | - | - | - | absent: needs training |" in output
    code, output = script("benchmark", "posterior", listed, "--output", report)
    assert code == 2
    assert "report.json: exists" in output


def test_the_shipped_list_has_every_solver() -> None:
    path = REPOSITORY / "configs/benchmarks/posterior.yaml"
    config = load_config(path, PosteriorConfig)
    for row in config.solvers:
        for task in OPERATORS:
            row.read(path.parent, task)
    shipped = {path.stem for path in (REPOSITORY / "configs/solvers").glob("*.yaml")}
    others = {"measurement", "davi_posterior"} | CLASSICAL | BLIND
    assert {row.name for row in config.solvers} == shipped - others
