"""The timing of operators, beside those of deepinv."""

import json
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest
import torch

from davi.benchmarks.ladders import OPERATORS, benchmark_config
from davi.benchmarks.operator_timing import (
    METHODS,
    OperatorTime,
    deepinv_counterpart,
    operator_table,
    time_in_turns,
)
from davi.build import build_operator

CPU = torch.device("cpu")


def test_works_take_turns_and_the_fastest_call_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, calls = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def work(name: str, seconds: list[float]) -> None:
        calls.append(name)
        clock[0] += seconds.pop(0)

    ours, theirs = [9.0, 0.3, 0.1, 0.2], [0.5, 0.6, 0.4, 0.5]
    works = [lambda: work("ours", ours), lambda: work("theirs", theirs)]
    assert time_in_turns(works, CPU, 3) == pytest.approx([9.0, 0.5])  # it took too long
    assert calls == ["ours", "theirs"]
    assert time_in_turns(works, CPU, 3) == pytest.approx([0.1, 0.4])


def test_the_table_has_the_ratio_of_what_was_measured() -> None:
    rows = [OperatorTime("blur", "A", 0.002, 0.008, 0.25), OperatorTime("sr", "A", 0.1, None, None)]
    table = operator_table(rows)
    assert "| blur | A | 2 | 8 | 0.25 |" in table
    assert "| sr | A | 100 | - | - |" in table


@pytest.mark.slow
def test_the_benchmark_runs_and_writes(command: object, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    arguments = ("--preset", "photos_64", "--repeats", 2, "--device", "cpu", "--output", path)
    code, output = command("benchmark", "operators", *arguments)
    assert code == 0, output
    rows = json.loads(path.read_text())["rows"]
    assert [(row["task"], row["method"]) for row in rows] == [*product(OPERATORS, METHODS)]
    for row in rows:
        assert row["fastest_s"] > 0
        assert f"| {row['task']} | {row['method']} |" in output
        assert (row["ratio"] is None) == (find_spec("deepinv") is None)


@pytest.mark.parametrize("task", OPERATORS)
def test_what_is_compared_is_the_same_operator(task: str) -> None:
    pytest.importorskip("deepinv")
    config = benchmark_config("photos_64", 1, task).operator
    operator = build_operator(config, (3, 64, 64))
    their = deepinv_counterpart(config, operator)
    x = torch.randn(2, 3, 64, 64)
    y = operator.project(torch.randn(2, *operator.measurement_shape))
    torch.testing.assert_close(operator.A(x), their.A(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(operator.A_adjoint(y), their.A_adjoint(y), atol=1e-5, rtol=0)
