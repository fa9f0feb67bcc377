"""Runs that are killed, stopped, damaged or out of space end as if nothing had happened."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from davi.weights.network_file import read_training_checkpoint
from tests.conftest import REPOSITORY
from tests.processes import TIMEOUT, environment, torchrun
from tests.same import assert_same

pytestmark = pytest.mark.slow
ITERATIONS = 100
MOMENTS = {  # to be killed at, for each recipe
    "paper": ["starting"] * 2 + ["training"] * 3 + ["saving"] * 3,
    "posterior": ["training", "saving"],
}
SCRIPT = REPOSITORY / "scripts/train.py"
LARGEST_FILE = 4_000_000  # bytes; a checkpoint of the tiny run has 10 MB


def command(run: Path, prior: Path, *overrides: str) -> list[str]:
    """What a user types, without the python."""
    settings = (
        f"prior.checkpoint={prior}",
        f"train.num_iterations={ITERATIONS}",
        "train.log_every=1",
        "train.validate_every=20",
        "train.save_every=3",
        *overrides,
    )
    flags = [word for setting in settings for word in ("--set", setting)]
    return [str(SCRIPT), str(REPOSITORY / "configs/tiny.yaml"), "--run-dir", str(run), *flags]


def start(arguments: list[str], **popen: Any) -> subprocess.Popen:
    options = {"cwd": REPOSITORY, "env": environment(), "text": True, "start_new_session": True}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([sys.executable, *arguments], **{**options, **streams, **popen})


def finish(job: subprocess.Popen, code: int = 0) -> str:
    """Waits for the end and returns what was printed."""
    output, _ = job.communicate(timeout=TIMEOUT)
    assert job.returncode == code, output
    return output


def wait_for(condition: Callable[[], Any], job: subprocess.Popen) -> None:
    """Returns once the condition holds or the job has ended."""
    deadline = time.monotonic() + TIMEOUT
    while not condition() and job.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def num_lines(run: Path) -> int:
    stats = run / "stats.jsonl"
    return len(stats.read_text().splitlines()) if stats.exists() else 0


def losses(run: Path) -> list[str]:
    return [line for line in (run / "stats.jsonl").open() if "psnr" not in line]


def num_saved(run: Path) -> int:
    return len(list((run / "checkpoints").glob("*.pt")))


def assert_ended_alike(run: Path, reference: Path) -> None:
    """Weights, averages, optimisers, counters and statistics, bit for bit."""
    assert (run / "stats.jsonl").read_text() == (reference / "stats.jsonl").read_text()
    name = f"checkpoints/iteration_{ITERATIONS:07d}.pt"
    assert_same(*(read_training_checkpoint(folder / name) for folder in (run, reference)))


@pytest.fixture(scope="module")
def unbroken_by(
    tmp_path_factory: pytest.TempPathFactory, tiny_prior: Path
) -> Callable[[str], Path]:
    """Runs of a recipe, each made once."""

    @cache
    def unbroken_run(recipe: str) -> Path:
        run = tmp_path_factory.mktemp("unbroken") / "run"
        finish(start(command(run, tiny_prior, f"recipe={recipe}")))
        return run

    return unbroken_run


@pytest.fixture(scope="module")
def unbroken(unbroken_by: Callable[[str], Path]) -> Path:
    return unbroken_by("paper")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, tiny_prior: Path) -> Path:
    """A run of six iterations, to be copied."""
    run = tmp_path_factory.mktemp("begun") / "run"
    finish(start(command(run, tiny_prior, "train.num_iterations=6")))
    return run


def _kill_somewhere(run: Path, words: list[str], moment: str, rng: random.Random) -> bool:
    """Starts the run and kills it; returns whether it was killed while writing a checkpoint."""
    in_background = rng.choice(["true", "false"])
    job = start([*words, "--set", f"train.save_in_background={in_background}"])
    if moment == "starting":
        time.sleep(rng.uniform(0, 6))
    elif moment == "training":
        before = num_lines(run)
        wait_for(lambda: num_lines(run) > before, job)
        time.sleep(rng.uniform(0, 0.5))
    else:
        wait_for(lambda: list((run / "checkpoints").glob(".*.tmp")), job)
        time.sleep(rng.uniform(0, 0.01))
    assert job.poll() is None, job.communicate()[0]
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    return bool(list((run / "checkpoints").glob(".*.tmp")))


@pytest.mark.parametrize("recipe", MOMENTS)
def test_kills_leave_no_trace(
    recipe: str, unbroken_by: Callable[[str], Path], tmp_path: Path, tiny_prior: Path
) -> None:
    seed = time.time_ns()  # other moments every time
    print(f"seed {seed}")
    rng = random.Random(seed)
    run = tmp_path / "run"
    words = command(run, tiny_prior, f"recipe={recipe}")
    moments = rng.sample(MOMENTS[recipe], len(MOMENTS[recipe]))
    while_saving = [_kill_somewhere(run, words, moment, rng) for moment in moments]
    assert any(while_saving)
    finish(start(words))
    assert_ended_alike(run, unbroken_by(recipe))
    assert not list((run / "checkpoints").glob(".*.tmp"))


def test_a_signal_saves_and_the_command_goes_on(
    unbroken: Path, tmp_path: Path, tiny_prior: Path
) -> None:
    run = tmp_path / "run"
    rare = command(run, tiny_prior, "train.save_every=1000", "data.num_workers=1")
    job = start(rare)
    wait_for(lambda: num_lines(run) >= 4, job)
    os.killpg(
        job.pid, signal.SIGTERM
    )  # the loader's processes get it, too, as from a terminal or Slurm
    output = finish(job, code=75)
    assert "saving after this step" in output
    assert "Traceback" not in output
    assert num_saved(run) == 1
    finish(start(command(run, tiny_prior)))
    assert_ended_alike(run, unbroken)


def test_a_second_signal_ends_at_once(tmp_path: Path, tiny_prior: Path) -> None:
    run = tmp_path / "run"
    job = start(command(run, tiny_prior, "train.batch_size=256"))  # steps of several seconds
    wait_for(lambda: num_lines(run) >= 1, job)
    job.send_signal(signal.SIGINT)
    time.sleep(0.2)
    job.send_signal(signal.SIGINT)
    finish(job, code=-signal.SIGINT)
    assert num_saved(run) == 0


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    begun: Path, unbroken: Path, tmp_path: Path, tiny_prior: Path
) -> None:
    """By one bit; tests/davi/runs has other damages."""
    run = shutil.copytree(begun, tmp_path / "run")
    newest = run / "checkpoints/iteration_0000006.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    output = finish(start(command(run, tiny_prior)))
    (line,) = [line for line in output.splitlines() if "iteration_0000006.pt:" in line]
    assert "not used" in line
    assert "going on from iteration 3" in output
    assert (run / "checkpoints/iteration_0000006.pt.damaged").exists()
    lines = (run / "stats.jsonl").read_text(), (unbroken / "stats.jsonl").read_text()
    assert lines[0] == lines[1]


def _limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))


def test_a_full_disk_stops_the_run_and_harms_no_checkpoint(
    begun: Path, unbroken: Path, tmp_path: Path, tiny_prior: Path
) -> None:
    run = shutil.copytree(begun, tmp_path / "run")
    for in_background in ("false", "true"):
        background = f"train.save_in_background={in_background}"
        full = start(command(run, tiny_prior, background), preexec_fn=_limit_file_size)
        output = finish(full, code=2)
        (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
        assert str(run / "checkpoints/iteration_0000009.pt") in line
        assert "it needs 1" in line
        assert "bytes" in line
        assert "Traceback" not in output
        assert not list((run / "checkpoints").glob(".*.tmp"))
    output = finish(start(command(run, tiny_prior)))
    assert "going on from iteration 6" in output
    # The short first part validated once more, at its own end.
    assert losses(run) == losses(unbroken)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def unbroken_pair(tmp_path_factory: pytest.TempPathFactory, tiny_prior: Path) -> Path:
    run = tmp_path_factory.mktemp("pair") / "run"
    finish(torchrun(2, *command(run, tiny_prior), stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    return run


def running_pair(run: Path, prior: Path, *overrides: str) -> subprocess.Popen:
    """A run in two processes under torchrun, some iterations old."""
    arguments = ["--max-restarts=2", *command(run, prior, *overrides)]
    job = torchrun(2, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_for(lambda: num_lines(run) >= 8, job)
    return job


def test_torchrun_starts_a_killed_worker_anew(
    tmp_path: Path, tiny_prior: Path, unbroken_pair: Path
) -> None:
    """That which writes; torchrun ends the other one, too."""
    run = tmp_path / "run"
    job = running_pair(run, tiny_prior)
    os.kill(_children(job.pid)[0], signal.SIGKILL)
    assert "going on from iteration" in finish(job)
    assert_ended_alike(run, unbroken_pair)


def test_a_signal_to_torchrun_saves(tmp_path: Path, tiny_prior: Path, unbroken_pair: Path) -> None:
    run = tmp_path / "run"
    rare = ("train.save_every=1000", "train.save_in_background=true")
    job = running_pair(run, tiny_prior, *rare)
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=TIMEOUT)
    assert job.returncode != 0
    assert "saving after this step" in output
    assert num_saved(run) == 1
    again = command(run, tiny_prior)
    output = finish(torchrun(2, *again, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    assert "going on from iteration" in output
    assert_ended_alike(run, unbroken_pair)


def test_two_runs_cannot_share_a_folder(tmp_path: Path, tiny_prior: Path) -> None:
    run = tmp_path / "run"
    job = start(command(run, tiny_prior))
    wait_for(lambda: num_lines(run) >= 1, job)
    assert "another process is training there" in finish(start(command(run, tiny_prior)), code=2)
    job.kill()
    job.communicate()
