"""The processes of one job: which one this is, and the little they tell each other.

Under torchrun each process finds its rank in the environment; without it there is one process and
nothing to tell. Messages between hosts go by gloo, so that none of them waits for a GPU; gradients
on GPUs go by NCCL.
"""

import contextlib
import datetime
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from davi.system.errors import InputError
from davi.system.runtime import select_device

# While the first process writes a checkpoint, the others wait for its next gradient.
PATIENCE = datetime.timedelta(minutes=30)
# Processes that share a folder wait only at the end, for the slowest.
FOLDER_PATIENCE = datetime.timedelta(days=365)
# What torchrun tells each process.
NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
LAUNCHED = (*NUMBERS, "MASTER_ADDR")


@dataclass(frozen=True)
class World:
    """One process among its equals.

    Attributes:
        rank: number of this process, 0 .. size - 1.
        size: number of processes.
        device: what this process computes on.
        distributed: whether there is a process group (also of a single process, under torchrun).
    """

    rank: int
    size: int
    device: torch.device
    distributed: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share(self, count: int, parts: int = 1) -> list[range]:
        """Returns the positions 0 .. count - 1 that fall to this process, in `parts` pieces.

        All size * parts pieces are consecutive and differ by one in length at most.
        """
        total = self.size * parts
        cuts = [count * piece // total for piece in range(total + 1)]
        first = self.rank * parts
        return [range(*cuts[piece : piece + 2]) for piece in range(first, first + parts)]

    def max(self, value: int) -> int:
        """Returns the largest of the processes' numbers; all must ask."""
        if not self.distributed:
            return value
        largest = torch.tensor(int(value))
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum of the processes' tensors; all must ask."""
        if not self.distributed:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def gather(self, value: Any) -> list[Any]:
        """Returns every process's (small, plain) object, by rank; all must ask."""
        if not self.distributed:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def map_rows(self, function: Callable[..., Tensor], *batches: Tensor) -> Tensor:
        """Returns function(*batches), (B, ...), for which every process does its share of the rows.

        Args:
            function: works row by row. All processes call it, with one row at least: the forward of
                a sharded network needs them all.
            batches: (B, ...), the same in all processes.
        """
        mine = self.share(len(batches[0]))[0]
        rows = slice(mine.start, mine.stop) if mine else slice(1)
        result = function(*(batch[rows] for batch in batches))
        parts = self.gather(result[: len(mine)].cpu()) if self.distributed else [result]
        return torch.cat(parts).to(self.device)

    def on_first(self, function: Callable[[], Any]) -> Any:
        """Runs a function in the first process and returns its (plain) result in all of them.

        Raises:
            Exception: what the function raised, in all processes.
        """
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = function()
            except Exception as error:  # handed to the other processes, which would wait for ever
                outcome[1] = error
        if self.distributed:
            dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]


ONE_PROCESS = World(0, 1, torch.device("cpu"))


@contextlib.contextmanager
def join_world(device: str = "auto", patience: datetime.timedelta = PATIENCE) -> Iterator[World]:
    """Gives the world of this process: one of torchrun's, or a world of its own.

    Args:
        device: auto, cpu, cuda or cuda:N; under torchrun "auto" and "cuda" are the GPU of the
            process's number on its machine.
        patience: how long processes wait for each other before they give up.

    Raises:
        InputError: the device is unknown or not present, one GPU would be shared by processes, or
            only a part of what torchrun sets is in the environment.
    """
    if not _is_launched():
        chosen = select_device(device)
        if chosen.index is not None:
            torch.cuda.set_device(chosen)  # or pinned memory would take some of the first GPU
        yield World(0, 1, chosen)
        return
    size, on_this_machine = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    chosen = select_device(device)
    if chosen.type == "cuda":
        if chosen.index is not None and on_this_machine > 1:
            raise InputError(f"device {device!r}: every process needs a GPU of its own; use cuda")
        if chosen.index is None:
            chosen = select_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(chosen)
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    rank = int(os.environ["RANK"])
    dist.init_process_group(
        backend, store=_store_of_this_attempt(), rank=rank, world_size=size, timeout=patience
    )
    yield World(rank, size, chosen, distributed=True)
    # Not after an error: the others may be gone, and waiting for them would hide it.
    dist.destroy_process_group()


def _is_launched() -> bool:
    """Whether this process is one of a job. Notebooks and Slurm's scripts may set half of that."""
    found = [name for name in LAUNCHED if os.environ.get(name)]
    alone = "RANK" not in found and os.environ.get("WORLD_SIZE", "") in ("", "1")
    if alone:
        return False
    wrong = [name for name in NUMBERS if not re.fullmatch(r"\d{1,9}", os.environ.get(name, ""))]
    wrong += ["MASTER_ADDR"] * ("MASTER_ADDR" not in found)
    if wrong:
        raise InputError(
            f"the environment has {', '.join(found)}, as of one process of several, but no "
            f"(usable) {', '.join(wrong)}: start with torchrun, which sets them all, or unset RANK "
            "and WORLD_SIZE for a process by itself"
        )
    return True


def _store_of_this_attempt() -> dist.Store:
    """Where processes find each other, without the addresses of those of an earlier attempt.

    torchrun keeps its own store over a restart and shares it with the processes: one that is quick
    finds the address of a process that is dead, and waits for it (pytorch/pytorch#135712).
    """
    environment = os.environ
    restarts = int(environment.get("TORCHELASTIC_MAX_RESTARTS", 0))
    shared = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    # The machines of a job count its restarts each for themselves.
    if restarts and shared and int(environment.get("GROUP_WORLD_SIZE", 1)) > 1:
        raise InputError(
            "torchrun --max-restarts on several machines: export "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 on each of them first; without it a restarted "
            "job may hang"
        )
    store, _, _ = next(dist.rendezvous("env://"))
    return dist.PrefixStore(f"attempt_{environment.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
