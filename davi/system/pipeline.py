"""Stages of a stream of work that run beside each other, in order and in bounded memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import torch

# For files: decoders and encoders run outside of Python's lock. More than a disk can serve is vain.
NUM_THREADS = min(8, os.cpu_count() or 1)


def file_threads() -> ThreadPoolExecutor:
    """Returns threads for files that leave the cores to the thread of the caller, and a network.

    A thread that computes with several cores brings helpers of its own, and with more helpers than
    cores those of the network would wait for each other.
    """
    torch.get_num_threads()  # settles the number of this thread; the next line is for the others
    return ThreadPoolExecutor(NUM_THREADS, initializer=torch.set_num_threads, initargs=(1,))


def map_ahead(
    executor: Executor, function: Callable[[Any], Any], items: Iterable[Any], window: int
) -> Iterator[Any]:
    """Yields function(item) of every item in their order, computed beside the consumer.

    Args:
        executor: runs the function.
        function: one argument, one result.
        items: drawn by the consumer's thread, at most `window` ahead of what it was given. If they
            end in an error, it is raised after the results of the items before.
        window: calls under way at a time.

    Raises:
        Exception: what the function raised, in place of its result.
    """
    items = iter(items)
    pending: deque[Future] = deque()
    while True:
        try:
            item = next(items)
        except Exception as error:  # StopIteration, too
            end = error
            break
        pending.append(executor.submit(function, item))
        if len(pending) > window:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
    if not isinstance(end, StopIteration):
        raise end
