"""State files of a table: kept exactly, redone where they are damaged in any way."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from davi.tables.cache import Cache
from davi.tables.scoring import _kept_value
from davi.tables.timing import FILE, Seconds, _read

KEY = "ab" * 32
DAMAGED = ["", "5", "[]", "null", "{}", "[" * 10**5, '{"value": "x"}', "1" * 5000, "\0"]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    known = {"forward": 1.0, "backward": 0.0, "seconds": 0.5, "timed_on": "cpu"}
    scores = {"psnr": {"value": float("inf"), "code": "c"}}
    Cache(tmp_path).write(KEY, torch.zeros(3, 8, 8), scores=scores, **known)
    return Cache(tmp_path).picture(KEY).with_suffix(".json")


@pytest.mark.parametrize("text", DAMAGED)
def test_files_of_another_shape_count_as_missing(text: str, record: Path, tmp_path: Path) -> None:
    for path in (record, tmp_path / FILE, tmp_path / "value.json"):
        path.write_text(text)
    assert Cache(tmp_path).read(KEY) is None
    assert _read(tmp_path) == Seconds()
    assert _kept_value(tmp_path / "value.json") is None


@pytest.mark.parametrize(
    "change", [{"scores": []}, {"scores": {"psnr": {"value": "x"}}}, {"picture_sha256": 5}]
)
def test_a_record_with_a_field_of_another_kind_counts_as_missing(
    change: dict, record: Path, tmp_path: Path
) -> None:
    before = Cache(tmp_path).read(KEY)
    assert json.dumps(asdict(before)) == record.read_text().strip()
    record.write_text(json.dumps(asdict(before) | change))
    assert Cache(tmp_path).read(KEY) is None
