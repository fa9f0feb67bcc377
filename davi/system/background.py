"""Work done beside the loop, in one thread, of which only the latest order counts."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class LatestJob:
    """Does jobs one after the other; one that waits is replaced by a newer one.

    So handing over a job never waits for the one before, and at most one is waiting. After one has
    failed, no other is done.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._waiting: deque[Callable[[], None]] = deque(maxlen=1)
        self._error: BaseException | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Hands over a job.

        Raises:
            Exception: what an earlier job failed with.
        """
        self.raise_error()
        self._waiting.append(job)
        self._thread.submit(self._take_turn)

    def raise_error(self) -> None:
        """Raises what a job failed with, if one did."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Returns when everything is done.

        Raises:
            Exception: what a job failed with.
        """
        self._thread.shutdown()
        self.raise_error()

    def _take_turn(self) -> None:
        """Does the job that waits. There is none if a turn before this one took the latest."""
        if self._error is not None or not self._waiting:
            return
        try:
            self._waiting.popleft()()
        except BaseException as error:
            self._error = error
