"""The loop of every training: one process at a time in a folder."""

from pathlib import Path

import pytest

from davi.runs.run_folder import RunFolder
from davi.system.errors import InputError
from tests.davi.test_trainer import run
from tests.tiny import tiny_config


def test_a_folder_in_which_another_process_trains_is_left_alone(
    tmp_path: Path, tiny_prior: Path
) -> None:
    folder = RunFolder(tmp_path, tiny_config(tiny_prior), {})
    with folder.lock(), pytest.raises(InputError, match="another process is training there"):
        run(tmp_path, tiny_prior)
    assert not list((tmp_path / "checkpoints").iterdir())
    assert not (tmp_path / "stats.jsonl").exists()
