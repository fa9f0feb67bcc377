"""Work done beside the loop, in one thread, of which only the latest order counts."""

import threading
from collections.abc import Callable


class LatestJob:
    """Does jobs one after the other; one that waits is replaced by a newer one.

    So handing over a job never waits for the one before, and at most one is waiting.
    """

    def __init__(self) -> None:
        self._waiting: Callable[[], None] | None = None
        self._error: Exception | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        """Hands over a job.

        Raises:
            Exception: what an earlier job failed with.
        """
        self.raise_error()
        with self._changed:
            self._waiting = job
            self._changed.notify()

    def raise_error(self) -> None:
        """Raises what a job failed with, if one did."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Returns when everything is done.

        Raises:
            Exception: what a job failed with.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self.raise_error()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closing)
                job, self._waiting = self._waiting, None
            if job is None:
                return
            try:
                job()
            except Exception as error:  # shown by the thread that handed the job over
                self._error = error
                return
