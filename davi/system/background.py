"""Work done beside the loop, in one thread, of which only the latest order counts."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class LatestJob:
    """Does jobs one after the other; one that waits is replaced by a newer one.

    So handing over a job never waits for the one before, and at most one is waiting.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._waiting: deque[Callable[[], None]] = deque(maxlen=1)
        self._turns: list[Future] = []

    def submit(self, job: Callable[[], None]) -> None:
        """Hands over a job.

        Raises:
            Exception: what an earlier job failed with.
        """
        self.raise_error()
        self._waiting.append(job)
        self._turns.append(self._thread.submit(self._take_turn))

    def raise_error(self) -> None:
        """Raises what a job failed with, if one did."""
        for turn in self._turns:
            if turn.done():
                turn.result()

    def close(self) -> None:
        """Returns when everything is done.

        Raises:
            Exception: what a job failed with.
        """
        self._thread.shutdown()
        self.raise_error()

    def _take_turn(self) -> None:
        """Does the job that waits. There is none if a turn before this one took the latest."""
        if self._waiting:
            self._waiting.popleft()()
