"""Workers that read ahead, and signals."""

import os
import signal
import subprocess
import sys

import pytest

from tests.processes import TIMEOUT, environment

PROGRAM = """
import os, signal, sys, time
import torch
from davi.data.loader import load_batches

class Slow(torch.utils.data.Dataset):
    def __getitem__(self, index):
        time.sleep(0.01)
        return index

def note(number, frame):
    print("signal", flush=True)

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    batches = load_batches(
        Slow(), [[index] for index in range(200)], num_workers=2, collate=list
    )
    first = next(batches)
    print("begun", flush=True)
    if sys.argv[1] == "raise":
        raise RuntimeError("stopped")
    if sys.argv[1] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    assert [first, *batches] == [[index] for index in range(200)]
    print("complete")
"""


def start(action: str) -> subprocess.Popen:
    """Starts the program in a process group of its own; returns once workers have begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, action],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_outlive_signals_to_the_whole_group(number: signal.Signals) -> None:
    process = start("finish")
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert output == "signal\ncomplete\n"
    assert process.returncode == 0


@pytest.mark.parametrize("action", ["raise", "die"])
def test_workers_end_with_their_parent(action: str) -> None:
    process = start(action)
    # It returns when the last process that could write to the pipe is gone.
    output, _ = process.communicate(timeout=TIMEOUT)
    assert "complete" not in output
    assert process.returncode == {"raise": 1, "die": -signal.SIGKILL}[action]
