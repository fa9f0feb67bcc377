"""Reading ahead in worker processes that leave signals to the process they work for."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from multiprocessing import parent_process
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import BatchSampler, DataLoader, Dataset, get_worker_info
from tqdm import tqdm

from davi.system.errors import InputError
from davi.system.signals import stop_signals_held

PREFETCH = 4  # batches that each worker prepares ahead, against slow files
CHUNK = 8  # keys that a worker of `load_each` takes at once
LIFE_SIGN = 1  # seconds after which a worker looks whether its parent is still there


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
        collate: makes one object of a batch. An error is returned: raised in a worker, it would
            reach the user wrapped in that process's traceback.
        pin_memory: copy the tensors to memory that a GPU reads while it computes.

    Raises:
        InputError: what `collate` returned, or the workers lack the memory to hand over a batch.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        prefetch_factor=PREFETCH if num_workers else None,
        collate_fn=partial(_collate_to_share, collate),
        pin_memory=pin_memory,
        worker_init_fn=partial(_obey_parent_only, os.getpid()),
    )
    # Without a name for it, an error ends the loop's workers at once, and not when it is forgotten.
    for batch in _started(loader):
        if isinstance(batch, InputError):
            raise batch
        yield batch


def _started(loader: DataLoader) -> Iterator[Any]:
    """Its iterator. A worker that has just begun still has this process's signal handlers."""
    with stop_signals_held():
        return iter(loader)


def _collate_to_share(collate: Callable[[list], Any], samples: list) -> Any:
    """collate(samples), in a worker moved to memory that the parent can read.

    Moved later, by the thread that sends it, a batch for which there is no memory would be lost,
    and the parent would wait for it for ever.
    """
    batch = collate(samples)
    if get_worker_info() is None:
        return batch
    try:
        for leaf in tree_leaves(batch):
            if isinstance(leaf, Tensor):
                leaf.share_memory_()
    except RuntimeError as error:
        return InputError(
            f"data.num_workers: a worker cannot hand over its images ({error}); give more shared "
            "memory (docker run --shm-size=8g), or have fewer workers or none (--set "
            "data.num_workers=0)"
        )
    return batch


def load_each(
    dataset: Dataset, keys: Sequence, num_workers: int, bar: str, show: bool = True
) -> Iterator[Any]:
    """Yields dataset[key] for every key, in their order, and shows a bar of this name."""
    chunks = BatchSampler(keys, CHUNK, drop_last=False)
    read = load_batches(dataset, chunks, num_workers=num_workers, collate=list)
    items = chain.from_iterable(read)
    yield from tqdm(items, desc=bar, unit="image", total=len(keys), disable=not show)


def _obey_parent_only(parent: int, _: int) -> None:
    """Makes a worker outlive Ctrl-C and a SIGTERM to the whole job.

    Its process finishes a step before it ends, and needs the workers for that. They end when it
    says so, or is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):
        # Held since before this process began, see `_started`, but for a worker of a fork server.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_await_end, args=(parent,), daemon=True).start()
    else:  # on macOS SIGTERM stays deadly
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _await_end(parent: int) -> None:
    """Ends this process at a SIGTERM from its parent, or when that is gone.

    DataLoader looks for the parent, too, but misses one that is gone before the worker has begun.
    """
    while parent_process().is_alive():  # a fork server may stand between
        received = signal.sigtimedwait([signal.SIGTERM], LIFE_SIGN)
        if received is not None and received.si_pid == parent:
            break
    os._exit(0)
