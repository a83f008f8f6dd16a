"""Ctrl-C between steps: an interrupt is noted when it comes and raised when it is safe.

What enters: SIGINT. What leaves: KeyboardInterrupt from :meth:`Interrupt.check`. Invariant: while
:func:`deferred_interrupt` is in force, a first interrupt never strikes between an update and its bookkeeping; a second
one is not held back. Whoever has SIGINT ignored (``nohup``, a script's background job) or handled otherwise keeps that.

>>> with deferred_interrupt() as interrupt:
...     interrupt.check()
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether an interrupt has come."""

    def __init__(self) -> None:
        self.pending = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if one has come."""
        if self.pending:
            self.pending = False
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pending:
            raise KeyboardInterrupt  # the user insists
        self.pending = True


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Hold back Ctrl-C until ``check``. Outside of the main thread, which alone gets signals, it does nothing."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupt
        return
    signal.signal(signal.SIGINT, interrupt._note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
