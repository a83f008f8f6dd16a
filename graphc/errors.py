"""Typed errors of graphc, and the one format in which they are shown.

What enters: the rule that was broken, the values on both sides, the user's source line. What leaves: an exception whose
text has the form below. Invariant: every error that a user can cause is a :class:`GraphcError`; ``assert`` is for our
own bugs only. ::

    train.py:14: y = matmul(x, w)
                     ^ matmul: contracted axes differ, 784 against 128
      x: f32[32,784]  axis 1 is 784   (train.py:9)
      w: f32[128,10]  axis 0 is 128   (train.py:11)
    help: w must be f32[784,n]
"""

from __future__ import annotations

import linecache
from typing import Protocol


class SourceLike(Protocol):
    """What an error needs of a source position: a file and a line (see :class:`graphc.provenance.Source`)."""

    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...
    @property
    def short(self) -> str: ...


class GraphcError(Exception):
    """Root of all errors that graphc raises on purpose.

    Args:
        message: the rule that was broken, with both values.
        source: the user's line to show, if one is known.
        token: the word in that line under which the caret stands (an op's name).
        notes: further lines, one fact each.
        help: how to mend it.
    """

    def __init__(
        self,
        message: str,
        *,
        source: SourceLike | None = None,
        token: str | None = None,
        notes: tuple[str, ...] = (),
        help: str | None = None,
    ) -> None:
        self.message = message
        self.source = source
        self.token = token
        self.notes = notes
        self.help = help
        super().__init__(format_error(message, source=source, token=token, notes=notes, help=help))


class TypeRuleError(GraphcError):
    """An op was given operands that its type rule forbids."""


class ShapeError(TypeRuleError, ValueError):
    """Shapes do not fit the op."""


class DTypeError(TypeRuleError, TypeError):
    """Dtypes do not fit the op."""


class AttributeRuleError(TypeRuleError, ValueError):
    """An op's static attribute (axis, shape, index) is out of its range."""


class InputError(GraphcError, ValueError):
    """A compiled program was called with missing, extra or ill-typed inputs."""


class IndexRangeError(InputError, IndexError):
    """An index that was only known at run time lies outside of its axis."""


class NonFiniteError(GraphcError, ArithmeticError):
    """Strict mode met a NaN or an infinity."""


class GraphError(GraphcError, ValueError):
    """A graph was put together wrongly: foreign node, duplicate name, unknown name."""


class VerifyError(GraphcError):
    """A verifier found broken IR (ours or a pass author's)."""


class PassError(VerifyError):
    """A pass broke the IR or its contract; names the guilty pass."""


class ParseError(GraphcError, ValueError):
    """IR text could not be parsed."""


class DifferentiationError(GraphcError):
    """A derivative was asked for that does not exist."""


class CompileError(GraphcError):
    """Lowering or code generation failed."""


class TargetUnavailable(CompileError):
    """A target's toolchain or device is not on this machine."""


class DataError(GraphcError, ValueError):
    """A data set is malformed."""


class CheckpointError(GraphcError):
    """A checkpoint is missing, damaged or of another model."""


class DrawError(GraphcError):
    """A picture could not be made."""


def format_error(
    message: str, *, source: SourceLike | None, token: str | None, notes: tuple[str, ...], help: str | None
) -> str:
    """Lay out an error as the module's docstring shows.

    >>> print(format_error("axes differ", source=None, token=None, notes=("a: f32[2]",), help="transpose a"))
    axes differ
      a: f32[2]
    help: transpose a
    """
    lines = [message] if source is None else _with_caret(message, source, token)
    lines += [f"  {note}" for note in notes]
    if help is not None:
        lines.append(f"help: {help}")
    return "\n".join(lines)


def _with_caret(message: str, source: SourceLike, token: str | None) -> list[str]:
    text = linecache.getline(source.file, source.line).rstrip("\n")
    code = text.strip()
    if not code:
        return [f"{source.short}: {message}"]
    prefix = f"{source.short}: "
    column = code.find(token) if token else -1
    return [prefix + code, " " * (len(prefix) + max(column, 0)) + "^ " + message]
