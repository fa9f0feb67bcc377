"""Workers that read ahead, and signals."""

import os
import resource
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch

from davi.data.loader import load_batches
from davi.system.errors import InputError
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

# The second worker is still about to begin when the first has read.
forks = []
os.register_at_fork(
    before=lambda: forks.append(None),
    after_in_child=lambda: time.sleep(0.4 * (len(forks) - 1)),
)

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

BY_OTHER_MEANS = """
import sys
import torch
from davi.data.loader import load_batches

if __name__ == "__main__":
    torch.multiprocessing.set_start_method(sys.argv[1])
    print(list(load_batches(range(3), [[0], [1], [2]], num_workers=1, collate=list)))
"""


def start(action: str) -> subprocess.Popen:
    """Starts the program in a process group of its own; returns once workers have begun."""
    process = subprocess.Popen(
        # On a machine with one core PyTorch warns of two workers.
        [sys.executable, "-W", "ignore", "-c", PROGRAM, action],
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


class LittleMemory(torch.utils.data.Dataset):
    """Images for workers that may share no more than 64 kB at once."""

    def __getitem__(self, index: int) -> torch.Tensor:
        if torch.utils.data.get_worker_info() is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
        return torch.full((1000,), float(index))


def test_a_batch_for_which_there_is_no_shared_memory_is_an_error() -> None:
    fits, too_large = [1, 2], [3] * 17
    read = partial(load_batches, LittleMemory(), [fits, too_large], collate=torch.stack)
    assert [len(batch) for batch in read(num_workers=0)] == [2, 17]
    batches = read(num_workers=2)
    assert next(batches)[:, 0].tolist() == [1, 2]
    with pytest.raises(InputError, match=r"File too large.*--shm-size=.*data\.num_workers=0"):
        next(batches)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_need_not_be_forked(method: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", BY_OTHER_MEANS, method],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert process.stdout == "[[0], [1], [2]]\n", process.stderr
