"""Reading ahead in worker processes that leave signals to the process they work for."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, Dataset
from tqdm import tqdm

PREFETCH = 4  # batches that each worker prepares ahead, against slow files
CHUNK = 8  # keys that a worker of `load_each` takes at once


def load_batches(
    dataset: Dataset,
    batches: Iterable[list],
    *,
    num_workers: int,
    collate: Callable[[list], Any],
    pin_memory: bool = False,
) -> Iterator[Any]:
    """Yields collate([dataset[key] for key in batch]) for every batch of keys, in their order.

    Args:
        dataset: what the keys index; copied into the workers.
        batches: the keys of each batch; the workers live until they are used up.
        num_workers: 0 reads in this process.
        collate: makes one object of a batch.
        pin_memory: copy the tensors to memory that a GPU reads while it computes.
    """
    return iter(
        DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=num_workers,
            prefetch_factor=PREFETCH if num_workers else None,
            collate_fn=collate,
            pin_memory=pin_memory,
            worker_init_fn=_obey_parent_only,
        )
    )


def load_each(
    dataset: Dataset, keys: Sequence, num_workers: int, bar: str, show: bool = True
) -> Iterator[Any]:
    """Yields dataset[key] for every key, in their order, and shows a bar of this name."""
    chunks = BatchSampler(keys, CHUNK, drop_last=False)
    read = load_batches(dataset, chunks, num_workers=num_workers, collate=list)
    items = chain.from_iterable(read)
    yield from tqdm(items, desc=bar, unit="image", total=len(keys), disable=not show)


def _obey_parent_only(_: int) -> None:
    """Makes a worker outlive Ctrl-C and a SIGTERM to the whole job.

    Its process finishes a step before it ends, and needs the workers for that. They end when it
    says so, or is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS, where SIGTERM stays deadly
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_await_end, daemon=True).start()


def _await_end() -> None:
    """Ends this process at a SIGTERM from its parent, which sends it when it ends itself."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
