"""No cyclic garbage collection while a graph is transformed.

A compilation builds hundreds of thousands of small objects that all live to its end. Python's collector would walk all of
them again each time their number has grown by a quarter, and find nothing: a third of the time for a deep net.

>>> import gc
>>> with collector_paused():
...     gc.isenabled()
False
>>> gc.isenabled()
True
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collector_paused"]

_lock = threading.Lock()
_inside = 0  # pauses in force, in all threads
_was_enabled = False


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the cyclic collector; also a decorator. Nests, and counts over threads: the last one out switches it on."""
    global _inside, _was_enabled
    with _lock:
        if not _inside:
            _was_enabled = gc.isenabled()
            gc.disable()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside = max(_inside - 1, 0)
            if not _inside and _was_enabled:
                gc.enable()


def _after_fork() -> None:
    """The child has the forking thread alone; pauses of others ended with them."""
    global _inside, _lock
    _lock = threading.Lock()
    if _inside and _was_enabled:
        gc.enable()
    _inside = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
