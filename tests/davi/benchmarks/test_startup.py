"""The benchmark of starting up."""

import json
from pathlib import Path

import pytest

from davi.benchmarks import startup


def test_every_start_is_timed_in_a_process_of_its_own(
    command: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = ("-c", "import time; time.sleep(0.3)")
    monkeypatch.setattr(startup, "STARTS", {"quick": ("-c", "pass"), "slow": slow})
    code, output = command("benchmark", "startup", "--repeats", 1, "--output", tmp_path / "r.json")
    assert code == 0
    assert "| quick |" in output
    quick, slow = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert slow["median_s"] > quick["median_s"] + 0.2
    assert slow["speedup"] is None
