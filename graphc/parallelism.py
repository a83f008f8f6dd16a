"""How many threads programs use: one number for the process, read when a program is compiled.

What enters: ``graphc.threads(n)``, the environment's ``GRAPHC_THREADS``, or nothing (the processors that the process may
use). What leaves: the default of ``graphc.compile(..., threads=None)``. Invariant: a compiled program keeps the count it
was compiled for, because the count decides how its sums are cut and therefore their last bits.

>>> before = threads()
>>> with threads(1):
...     threads()
1
>>> threads() == before
True
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import overload

from graphc.errors import GraphError

__all__ = ["available_cpus", "default_threads", "threads"]

MAX_THREADS = 1024
_chosen: int | None = None


class _Setting:
    """The count before a :func:`threads` call, restored at the end of a ``with`` block."""

    def __init__(self, before: int | None) -> None:
        self._before = before

    def __enter__(self) -> _Setting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _chosen
        _chosen = self._before


@overload
def threads() -> int: ...


@overload
def threads(count: int) -> _Setting: ...


def threads(count: int | None = None) -> int | _Setting:
    """Get, set, or set for a ``with`` block the number of threads of programs that are compiled from now on.

    Args:
        count: 1 to 1,024, the caller's thread among them. Without it the present number is returned.

    The number holds for the whole process. Programs that exist keep theirs; ``graphc.compile(..., threads=n)`` overrides it.

    Raises:
        GraphError: not a number from 1 to 1,024.

    >>> with threads(2):
    ...     threads()
    2
    """
    global _chosen
    if count is None:
        return default_threads()
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_THREADS:
        raise GraphError(f"threads must be a number from 1 to {MAX_THREADS}, got {count!r}")
    before, _chosen = _chosen, count
    return _Setting(before)


def default_threads() -> int:
    """What :func:`threads` set, else GRAPHC_THREADS, else the processors this process may run on."""
    if _chosen is not None:
        return _chosen
    wanted = os.environ.get("GRAPHC_THREADS", "")
    if wanted.isdigit() and 0 < int(wanted) <= MAX_THREADS:
        return int(wanted)
    return available_cpus()


def available_cpus() -> int:
    """How many CPUs this process may use.

    >>> available_cpus() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
