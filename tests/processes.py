"""Runs a function in several processes that form one world, as torchrun would start them."""

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from davi.system.world import join_world
from tests.conftest import REPOSITORY

TIMEOUT = 300  # seconds; a hanging collective must not hang the tests


def torchrun(processes: int, *arguments: object, **popen: Any) -> subprocess.Popen:
    """Starts `torchrun --nproc_per_node=processes arguments...` on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={processes}", *map(str, arguments)]
    options = {"cwd": REPOSITORY, "env": environment(), "text": True, **popen}
    return subprocess.Popen(command, **options)


def environment(*more_paths: Path) -> dict[str, str]:
    """The environment of a process that shares the cores with others and uses this checkout."""
    paths = os.pathsep.join(map(str, (REPOSITORY, *more_paths)))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


def in_world(processes: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Returns function(world, *arguments) of every process, by rank.

    Args:
        processes: size of the world.
        function: importable by name; what it returns must be picklable.
        arguments: picklable.
    """
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "task"
        task.write_bytes(pickle.dumps((function, arguments)))
        job = torchrun(
            processes,
            "-m",
            "tests.processes",
            task,
            env=environment(Path(function.__code__.co_filename).parent),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = job.communicate(timeout=TIMEOUT)
        if job.returncode:
            raise RuntimeError(output)
        return [
            pickle.loads(task.with_name(f"result_{rank}").read_bytes()) for rank in range(processes)
        ]


def _main(task: Path) -> None:
    torch.set_num_threads(1)
    function, arguments = pickle.loads(task.read_bytes())
    with join_world("cpu") as world:
        result = function(world, *arguments)
        task.with_name(f"result_{world.rank}").write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
