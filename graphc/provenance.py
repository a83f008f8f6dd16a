"""Where every node comes from: the user's line (:class:`Source`) and the derivation that made it (:class:`Origin`).

Invariant: provenance is many-to-many. A node has one Source (the line that declared its first ancestor) and a tuple of
Origins; an origin names the pass, the rule and *all* nodes it read. Passes never fill these in by hand: they build nodes
inside :func:`deriving`, and :func:`current` is read by the node constructor.

>>> with deriving("simplify", "neg_neg"):
...     current().pass_name, current().rule
('simplify', 'neg_neg')
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

_OWN = tuple(
    os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), name) + os.sep
    for name in ("graphc", "passes", "viz")
)
_EXAMPLES = os.path.join(_OWN[0], "cli") + os.sep  # the demo and the examples declare models as a user does


@dataclass(frozen=True, slots=True)
class Source:
    """The user's line that declared a value, and the scope path ("classifier/dense_0") it was declared in."""

    file: str
    line: int
    scope: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        """``train.py:14``."""
        return f"{os.path.basename(self.file)}:{self.line}"

    def __str__(self) -> str:
        return self.short


@dataclass(frozen=True, slots=True)
class Origin:
    """One derivation step: the pass, the rule in it, the nodes it read, and for adjoints the primal node.

    ``parents`` are :class:`graphc.ir.Node` objects (typed Any to keep the import order).
    """

    pass_name: str
    rule: str = ""
    parents: tuple[Any, ...] = ()
    primal: Any = None

    def __str__(self) -> str:
        return f"{self.pass_name}:{self.rule}" if self.rule else self.pass_name


DECLARED = Origin("declare")
_origin: ContextVar[Origin] = ContextVar("graphc_origin", default=DECLARED)
_source: ContextVar[Source | None] = ContextVar("graphc_source", default=None)
_scope: ContextVar[tuple[str, ...]] = ContextVar("graphc_scope", default=())


def current() -> Origin:
    """The origin that nodes built now receive."""
    return _origin.get()


def scope_path() -> tuple[str, ...]:
    """The scope that declarations made now belong to."""
    return _scope.get()


@contextmanager
def scope(name: str) -> Iterator[str]:
    """Declare values inside a named scope; scopes nest and become clusters in pictures and prefixes of parameters.

    >>> with scope("classifier"), scope("dense_0"):
    ...     "/".join(scope_path())
    'classifier/dense_0'
    """
    token = _scope.set((*_scope.get(), name))
    try:
        yield name
    finally:
        _scope.reset(token)


class deriving:
    """Nodes built inside carry this origin, and the source of ``source`` or of the first parent that has one.

    A context manager, entered once for each rule that fires: a class of its own costs a third of a generator.
    """

    __slots__ = ("_origin", "_source", "_tokens")

    def __init__(
        self, pass_name: str, rule: str = "", parents: tuple[Any, ...] = (), primal: Any = None, source: Source | None = None
    ) -> None:
        self._origin = Origin(pass_name, rule, parents, primal)
        if source is None:
            for parent in parents:
                if parent.source is not None:
                    source = parent.source
                    break
        self._source = source

    def __enter__(self) -> Origin:
        self._tokens = _origin.set(self._origin), _source.set(self._source)
        return self._origin

    def __exit__(self, *_: object) -> None:
        _origin.reset(self._tokens[0])
        _source.reset(self._tokens[1])


def capture() -> Source | None:
    """The user's line that is running now: the innermost frame outside graphc, or the source set by :func:`deriving`."""
    fixed = _source.get()
    if fixed is not None or _origin.get() is not DECLARED:
        return fixed
    frame = sys._getframe(1)
    last = frame
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_EXAMPLES) or not name.startswith((*_OWN, "<frozen")):
            return Source(name, frame.f_lineno, _scope.get())
        last, frame = frame, frame.f_back  # type: ignore[assignment]
    return Source(last.f_code.co_filename, last.f_lineno, _scope.get())
