"""What a run leaves on disk, and what it refuses to mix."""

import errno
import importlib.util
import json
import os
import signal
import sys
import time
import types
from pathlib import Path

import filelock
import pytest
import torch

from davi.data.images import load_image
from davi.runs.run_folder import RunFolder
from davi.system.errors import InputError
from davi.system.files import disk_full_as_input_error
from davi.weights.network_file import read_training_checkpoint
from tests.tiny import tiny_config


def open_run(path: Path, prior: Path, *overrides: str) -> RunFolder:
    return RunFolder(path, tiny_config(prior, *overrides), {"prior.checkpoint": "abc"})


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path, tiny_prior: Path) -> None:
    run = open_run(tmp_path, tiny_prior)
    for iteration in (5, 10, 100):
        run.save(iteration, {"ema": {}}, score=None)
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("*.pt"))
    assert names == ["iteration_0000010.pt", "iteration_0000100.pt"]
    newest = read_training_checkpoint(run.find_newest())
    assert newest["iteration"] == 100
    assert newest["inputs"] == {"prior.checkpoint": "abc"}
    assert newest["config"]["operator"]["name"] == "super_resolution"


def test_a_longer_run_is_the_same_run(tmp_path: Path, tiny_prior: Path) -> None:
    open_run(tmp_path, tiny_prior)
    open_run(tmp_path, tiny_prior, "train.num_iterations=99", "train.log_every=7")
    with pytest.raises(InputError, match=r"seed: 0 -> 1; train\.batch_size: 4 -> 2"):
        open_run(tmp_path, tiny_prior, "seed=1", "train.batch_size=2")


def test_panels_are_written_as_pictures(tmp_path: Path, tiny_prior: Path) -> None:
    run = open_run(tmp_path, tiny_prior)
    run.statistics.save_panel(7, torch.full((3, 8, 9), 1.0))
    assert load_image(tmp_path / "panels/iteration_0000007.png").shape == (3, 8, 9)
    run.statistics.close()


def test_weights_and_biases_mirrors_the_curves(
    tmp_path: Path, tiny_prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    fake = types.ModuleType("wandb")
    fake.init = lambda **arguments: calls.append(arguments)
    fake.__spec__ = importlib.util.spec_from_loader("wandb", loader=None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        run = open_run(tmp_path / "run", tiny_prior, "train.wandb_project=restoration")
        run.statistics.log(1, {"loss": 0.5})
        run.statistics.close()
    first, second = calls
    assert first["project"] == "restoration"
    assert first["sync_tensorboard"]
    assert first["config"]["loss.gamma"] == 0.1
    assert (first["id"], first["resume"]) == (second["id"], "allow")


def test_a_missing_wandb_is_named(
    tmp_path: Path, tiny_prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'davi\[tracking\]'"):
        open_run(tmp_path / "run", tiny_prior, "train.wandb_project=restoration")
    assert not (tmp_path / "run").exists()


def test_under_a_cool_down_a_longer_run_is_another_run(tmp_path: Path, tiny_prior: Path) -> None:
    open_run(tmp_path, tiny_prior, "train.cooldown_iterations=2")
    with pytest.raises(InputError, match=r"train\.num_iterations: 4 -> 8"):
        open_run(tmp_path, tiny_prior, "train.cooldown_iterations=2", "train.num_iterations=8")


def test_changes_on_purpose_are_allowed_one_by_one_and_noted(
    tmp_path: Path, tiny_prior: Path
) -> None:
    open_run(tmp_path, tiny_prior)
    changed = tiny_config(tiny_prior, "seed=1", "loss.gamma=3")
    with pytest.raises(InputError, match=r"loss\.gamma: 0\.1 -> 3\.0.*--allow-changes seed loss"):
        RunFolder(tmp_path, changed, {"prior.checkpoint": "abc"}, ["seed"])
    assert not (tmp_path / "changes.jsonl").exists()
    allowed = ["seed", "loss.gamma", "prior.checkpoint"]
    run = RunFolder(tmp_path, changed, {"prior.checkpoint": "new"}, allowed)
    open_run(tmp_path, tiny_prior)  # until it can go on with them, it is the run it was
    run.take_over_changes()
    (entry,) = map(json.loads, (tmp_path / "changes.jsonl").open())
    assert entry["prior.checkpoint"] == "content of prior.checkpoint: abc -> new"
    RunFolder(tmp_path, changed, {"prior.checkpoint": "new"})  # it is this run now


def test_another_path_does_not_hide_another_content(tmp_path: Path, tiny_prior: Path) -> None:
    RunFolder(tmp_path, tiny_config(tiny_prior), {"data.train": {"images": 3, "sha256": "ab"}})
    changed = tiny_config(tiny_prior, "data.train=/elsewhere")
    with pytest.raises(InputError, match=r"data\.train: photos:train -> /elsewhere, content of"):
        RunFolder(tmp_path, changed, {"data.train": {"images": 2, "sha256": "cd"}})


def test_a_full_disk_is_named_with_the_folder(
    tmp_path: Path, tiny_prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("davi.runs.record.write_text", full)
    with pytest.raises(InputError, match=r"No space left on device\); \d+ bytes are free there"):
        open_run(tmp_path / "run", tiny_prior)
    with pytest.raises(PermissionError), disk_full_as_input_error(tmp_path):
        raise PermissionError(errno.EACCES, "something else")


def test_a_run_killed_while_it_made_its_folder_begins_there(
    tmp_path: Path, tiny_prior: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / ".inputs.json.7.tmp").touch()
    open_run(tmp_path, tiny_prior)
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(InputError, match="exists and holds no run"):
        open_run(tmp_path, tiny_prior)


def test_a_run_notices_another_prior_of_the_same_name(tmp_path: Path, tiny_prior: Path) -> None:
    config = tiny_config(tiny_prior)
    RunFolder(tmp_path, config, {"prior.checkpoint": "abc"})
    with pytest.raises(InputError, match=r"content of prior\.checkpoint: abc -> def"):
        RunFolder(tmp_path, config, {"prior.checkpoint": "def"})


def test_a_line_of_statistics_cut_off_by_a_crash_is_dropped(
    tmp_path: Path, tiny_prior: Path
) -> None:
    run = open_run(tmp_path, tiny_prior)
    for iteration in (1, 2, 3):
        run.statistics.log(iteration, {"loss": 0.5})
    run.statistics.close()
    stats = tmp_path / "stats.jsonl"
    whole = stats.read_text()
    stats.write_text(whole[:-10])
    run.statistics.forget_after(3)
    assert stats.read_text() == "".join(whole.splitlines(keepends=True)[:2])
    run.statistics.forget_after(1)
    assert stats.read_text() == whole.splitlines(keepends=True)[0]


@pytest.mark.parametrize("line", ["5", "[]", "{}", '{"iteration": "1"}', '{"iteration": null}'])
def test_a_foreign_line_of_statistics_is_named(line: str, tmp_path: Path, tiny_prior: Path) -> None:
    run = open_run(tmp_path, tiny_prior)
    stats = tmp_path / "stats.jsonl"
    stats.write_text(f'{{"iteration": 1}}\n{line}\n')
    with pytest.raises(
        InputError, match=r"stats\.jsonl: line 2: damaged \(.*\); mend or remove it"
    ):
        run.statistics.forget_after(1)
    assert stats.read_text().endswith(f"{line}\n")


@pytest.mark.parametrize(
    "end", [b"\0\0\0", b"\xff", b"[" * 100_000, b'{"iteration": 2, "l{"iteration": 2}']
)
def test_what_a_crash_leaves_of_statistics_is_dropped(
    end: bytes, tmp_path: Path, tiny_prior: Path
) -> None:
    run = open_run(tmp_path, tiny_prior)
    stats = tmp_path / "stats.jsonl"
    stats.write_bytes(b'{"iteration": 1}\n' + end)
    run.statistics.forget_after(1)
    assert stats.read_bytes() == b'{"iteration": 1}\n'


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"\xff", b"[" * 5000])
def test_damaged_inputs_of_a_run_are_named(
    content: bytes, tmp_path: Path, tiny_prior: Path
) -> None:
    open_run(tmp_path, tiny_prior)
    (tmp_path / "inputs.json").write_bytes(content)
    with pytest.raises(InputError, match=r"inputs\.json: damaged \(.*\); mend or remove it"):
        open_run(tmp_path, tiny_prior)


def test_curves_of_dropped_iterations_are_purged(tmp_path: Path, tiny_prior: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for last in (4, 5):
        run = open_run(tmp_path, tiny_prior)
        run.statistics.forget_after(2 if last == 5 else 0)
        for iteration in range(3 if last == 5 else 1, last + 1):
            run.statistics.log(iteration, {"loss": 0.5})
        run.statistics.close()
    curves = EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    assert [event.step for event in curves.Scalars("loss")] == [1, 2, 3, 4, 5]


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path, tiny_prior: Path) -> None:
    run, other = (open_run(tmp_path, tiny_prior) for _ in range(2))
    holder = os.fork()
    if holder == 0:
        with run.lock():
            (tmp_path / "held").touch()
            signal.pause()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(InputError) as caught, other.lock():
        pass
    message = f"{tmp_path}: another process is training there; wait for it, or choose another"
    assert str(caught.value) == f"{message} --run-dir"
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    with other.lock():
        pass


def test_a_wait_that_ran_out_in_training_is_not_taken_for_a_second_process(
    tmp_path: Path, tiny_prior: Path
) -> None:
    run = open_run(tmp_path, tiny_prior)
    with pytest.raises(filelock.Timeout), run.lock():
        raise filelock.Timeout("a compiled kernel")
    with run.lock():
        pass


def test_training_removes_what_a_killed_one_left_half_written(
    tmp_path: Path, tiny_prior: Path
) -> None:
    run = open_run(tmp_path / "run", tiny_prior)
    left, own = run.path / ".davi-0123456789abcdef.7.tmp", run.path / ".notes.tmp"
    left.touch()
    own.touch()
    with run.lock():
        assert not left.exists()
        assert own.exists()


def test_a_folder_that_tensorboard_cannot_write_is_refused_before_it_is_made(
    tmp_path: Path, tiny_prior: Path
) -> None:
    with pytest.raises(InputError, match="TensorBoard takes UTF-8 only"):
        open_run(tmp_path / "r\udcfcn", tiny_prior)
    assert not list(tmp_path.iterdir())
