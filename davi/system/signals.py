"""Pre-emption: a wish to stop that the training loop grants after the step it is in."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Within the block the first SIGTERM or SIGINT is noted, and a second ends the process.

    Attributes:
        received: whether a signal has come.
    """

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        name = signal.Signals(number).name
        # Not print: the signal may have come in the middle of one.
        os.write(2, f"\n{name}: saving after this step; once more to stop at once\n".encode())


@contextlib.contextmanager
def stop_signals_held() -> Iterator[None]:
    """Within the block signals to stop wait; processes and threads begun in it hold them too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
