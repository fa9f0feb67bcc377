"""Folders of measurements restored by several processes, and by processes that fail or die."""

import errno
import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

import davi.folders.restoring
from davi.system.files import LOCK
from davi.system.ledger import Ledger
from tests.conftest import REPOSITORY
from tests.processes import torchrun
from tests.test_nothing_lost import finish, start, wait_for
from tests.tiny import write_tiny_generator

SCRIPT = REPOSITORY / "scripts/sample.py"
COUNT = 120
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}


@pytest.fixture(scope="module")
def generator(tiny_prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_generator(tmp_path_factory.mktemp("w") / "g.safetensors", tiny_prior)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_measurements(tmp_path_factory.mktemp("measured"), COUNT)


def write_measurements(folder: Path, count: int) -> Path:
    """A folder of measurements, a third of them nested, and one that cannot be read."""
    (folder / "nested").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        name = f"nested/{number:03d}" if number % 3 else f"{number:03d}"
        np.save(folder / f"{name}.npy", random.uniform(-1, 1, (3, 4, 4)).astype(np.float32))
    (folder / "050.png").write_bytes(b"broken")
    return folder


def command(generator: Path, measured: Path, output: Path, *more: str) -> list[str]:
    """What a user types, without the python; several samples make it last a while."""
    options = {"--checkpoint": generator, "--input": measured, "--output": output}
    words = [str(word) for pair in options.items() for word in pair]
    return [str(SCRIPT), *words, "--num-samples", "3", "--device", "cpu", *more]


def entries(output: Path) -> list[str]:
    """The names in all records of a folder, as often as they appear."""
    lines = [
        line for path in output.glob("manifest*.jsonl") for line in path.read_text().splitlines()
    ]
    return [entry["name"] for entry in map(json.loads, lines) if "name" in entry]


def contents(output: Path) -> dict[str, bytes]:
    """Every file but the records."""
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in output.rglob("*")
        if path.is_file() and path.suffix != ".jsonl" and path.name != LOCK
    }


@pytest.fixture(scope="module")
def unbroken(
    generator: Path, measured: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What one process makes of the folder that nothing happens to."""
    output = tmp_path_factory.mktemp("unbroken") / "o"
    text = finish(start(command(generator, measured, output)), code=1)
    assert f"{COUNT} restored, 1 failed" in text
    assert len(contents(output)) == 6 * COUNT  # 3 samples, mean, and std twice
    return contents(output)


@pytest.mark.slow
def test_processes_share_a_folder_and_do_nothing_twice(
    generator: Path, measured: Path, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    arguments = command(generator, measured, tmp_path / "o")
    text = finish(torchrun(2, *arguments, **PIPES), code=1)
    assert text.count(f"{COUNT} restored, 1 failed") == 1
    assert len(entries(tmp_path / "o")) == len(set(entries(tmp_path / "o"))) == COUNT
    records = [path.name for path in (tmp_path / "o").glob("*.jsonl")]
    assert sorted(records) == ["manifest.1.jsonl", "manifest.jsonl"]
    assert contents(tmp_path / "o") == unbroken
    # Another number of processes knows what these have done.
    for path in ("sample_001/000.png", "sample_002/nested/001.png"):
        (tmp_path / "o" / path).unlink()
    text = finish(start(arguments), code=1)
    assert f"2 restored, {COUNT - 2} done before, 1 failed" in text
    assert contents(tmp_path / "o") == unbroken


@pytest.mark.slow
def test_settings_of_a_shared_job_are_checked_before_anything_is_done(
    generator: Path, measured: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    text = finish(
        torchrun(2, *command(generator, measured, tmp_path / "mine"), **PIPES), code=1
    )  # torchrun's own
    assert "so that nothing of yours is overwritten" in text
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_a_command_that_was_ended_goes_on(
    generator: Path,
    measured: Path,
    unbroken: dict[str, bytes],
    tmp_path: Path,
) -> None:
    output = tmp_path / "o"
    arguments = command(generator, measured, output)
    for wanted, number in ((5, signal.SIGINT), (40, signal.SIGKILL), (80, signal.SIGTERM)):
        job = start(arguments)
        wait_for(lambda: len(entries_so_far(output)) >= wanted, job)  # noqa: B023
        assert job.poll() is None
        job.send_signal(number)
        text, _ = job.communicate(timeout=60)
        assert "Traceback" not in text
        before = set(contents(output))
        assert {f"sample_002/{name}.png" for name in entries_so_far(output)} <= before
    text = finish(start(arguments), code=1)
    assert "done before, 1 failed" in text
    assert contents(output) == unbroken
    assert len(entries(output)) == len(set(entries(output))) == COUNT


def entries_so_far(output: Path) -> list[str]:
    """The complete lines of a record that is being written."""
    path = output / "manifest.jsonl"
    lines = path.read_text().split("\n")[1:-1] if path.exists() else []
    return [json.loads(line)["name"] for line in lines]


@pytest.mark.slow
def test_a_shared_job_whose_process_is_killed_goes_on(
    generator: Path, measured: Path, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "o"
    arguments = command(generator, measured, output)
    job = torchrun(2, *arguments, start_new_session=True, **PIPES)
    wait_for(lambda: len(entries_so_far(output)) >= 10, job)
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate(timeout=60)
    finish(start(arguments), code=1)
    assert contents(output) == unbroken
    assert sorted(entries(output)) == sorted(set(entries(output)))


def run(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> int:
    """Runs the script in this process and returns its exit code."""
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(arguments[0], run_name="__main__")
    return caught.value.code


def test_a_full_disk_is_said_in_one_line_and_nothing_unwritten_is_recorded(
    generator: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    save_image, record = davi.pictures.form.save_image, Ledger.record

    def save_until_full(image: Tensor, path: Path, *form: str | int) -> None:
        if path.stem == "033":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save_image(image, path, *form)

    def record_if_written(ledger: Ledger, name: str, source: Path, **facts: str) -> None:
        assert (tmp_path / f"o/std/{name}.npy").exists()  # the last file of each
        record(ledger, name, source, **facts)

    monkeypatch.setattr(Ledger, "record", record_if_written)
    measured = write_measurements(tmp_path / "measured", 40)
    arguments = command(generator, measured, tmp_path / "o", "--batch-size", "4")
    with monkeypatch.context() as full:
        full.setattr(davi.pictures.form, "save_image", save_until_full)
        assert run(monkeypatch, arguments) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(
        f"error: {tmp_path}/o: cannot be written to (No space left on device)"
    )
    done = [f"{number:03d}" for number in range(0, 33, 3)]
    assert entries(tmp_path / "o") == done
    assert run(monkeypatch, arguments) == 1
    assert "29 restored, 11 done before, 1 failed" in capsys.readouterr().out
    assert len(entries(tmp_path / "o")) == 40
    assert entries(tmp_path / "o") == sorted(entries(tmp_path / "o"))


def test_what_came_before_a_failure_of_the_network_is_kept(
    generator: Path, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore = davi.Restorer.restore

    def restore_or_fail(restorer: davi.Restorer, y: Tensor, *arguments: object) -> Tensor:
        if "021" in arguments[2]:  # the names
            raise davi.system.errors.InputError("the network returned NaN")
        return restore(restorer, y, *arguments)

    monkeypatch.setattr(davi.Restorer, "restore", restore_or_fail)
    arguments = command(generator, measured, tmp_path / "o", "--batch-size", "3")
    assert run(monkeypatch, arguments) == 2
    assert entries(tmp_path / "o") == ["000", "003", "006", "009", "012", "015"]
