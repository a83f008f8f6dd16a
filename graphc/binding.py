"""Arrays that a caller hands over to be written or to stay: checked once, explained where they do not fit.

What enters: a program and arrays by name. What leaves: the arrays, known to fit, or a bound callable. Invariant: an output
array overlaps no other array of the call, because compiled code assumes that a buffer is reached by one name only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from graphc.errors import InputError

if TYPE_CHECKING:
    from graphc.driver import Program, Specialisation

__all__ = ["bind", "check_outputs"]


def check_outputs(
    out: Mapping[str, Any] | None, found: Specialisation, arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The caller's output arrays.

    Raises:
        InputError: an unknown name; an array of another dtype, shape or layout; one that overlaps another array.
    """
    if out is None:
        return {}
    if not isinstance(out, Mapping):
        raise InputError(f"out must be a dict of arrays, got {type(out).__name__}", help='out={"loss": array}')
    expected = {name: (shape, dtype) for name, shape, dtype in found.results}
    given: dict[str, np.ndarray] = {}
    for name, array in out.items():
        if name not in expected:
            raise InputError(f"the program has no output {name!r}", help="outputs: " + ", ".join(expected))
        _check(f"the array for output {name}", array, *expected[name], writeable=True)
        given[name] = array
    _check_apart(given, [*arrays.items(), *((v.name, v.value) for v in found.graph_variables)])
    return given


def _check_apart(outputs: Mapping[str, np.ndarray], others: Sequence[tuple[str, np.ndarray]]) -> None:
    """No output overlaps anything; a sweep over addresses, because a deep net returns thousands of gradients."""
    spans = [(*byte_bounds(a), n, True) for n, a in outputs.items() if a.size]
    spans += [(*byte_bounds(a), n, False) for n, a in others if a.size]
    furthest: dict[bool, tuple[int, str]] = {True: (0, ""), False: (0, "")}  # of outputs, of others: where they end
    for begin, end, name, is_output in sorted(spans):
        for kind in (True, False) if is_output else (True,):
            reached, other = furthest[kind]
            if begin < reached:
                if is_output and not kind:
                    clash = (name, other)
                elif not is_output:
                    clash = (other, name)
                else:
                    first, second = sorted((name, other), key=list(outputs).index)
                    clash = (second, f"output {first}")
                raise InputError(
                    f"the array for output {clash[0]} overlaps that of {clash[1]}", help="give it memory of its own"
                )
        furthest[is_output] = max(furthest[is_output], (end, name))


def _check(what: str, array: Any, shape: tuple[int, ...], dtype: np.dtype[Any], *, writeable: bool = False) -> None:
    wanted = f"{dtype}{list(shape)}"
    if type(array) is not np.ndarray:
        raise InputError(f"{what} must be a NumPy array {wanted}, got {type(array).__name__}")
    if array.dtype != dtype or array.shape != shape:
        raise InputError(f"{what} must be {wanted}, got {array.dtype}{list(array.shape)}")
    flags = array.flags
    lacks = [word for word, good in (("contiguous", flags.c_contiguous), ("aligned", flags.aligned)) if not good]
    lacks += ["writeable"] if writeable and not flags.writeable else []
    if lacks:
        raise InputError(f"{what} is not {' and '.join(lacks)}")


def bind(
    program: Program, names: Sequence[str], arrays: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray] | None
) -> Callable[..., Any]:
    """See :meth:`graphc.driver.Program.bind`."""
    expected = [node.name for node in program.graph.inputs]
    for name in (*names, *arrays):
        if name not in expected:
            raise InputError(f"{name!r} is no input of the program", help="inputs: " + ", ".join(map(str, expected)))
    for name in expected:
        if [*names, *arrays].count(str(name)) != 1:
            problem = "bound twice" if name in names else "neither bound nor left to the call"
            raise InputError(f"input {name} is {problem}", help=f"program.bind({name!r}) takes it from each call")
    kept = dict(out) if out is not None else None

    def call(*given: Any, **named: Any) -> Any:
        if len(given) > len(names):
            raise InputError(f"the call takes {len(names)} arrays ({', '.join(names)}), got {len(given)}")
        both = set(names[: len(given)]) & set(named)
        if both or set(named) & set(arrays):
            raise InputError(f"input {sorted(both or set(named) & set(arrays))[0]} is given twice")
        return program(out=kept, **dict(zip(names, given, strict=False)), **named, **arrays)

    if program.graph.symbols or program.options.strict:
        return call  # sizes are known at the call
    found = program.specialise({})
    for name, array in arrays.items():
        dtype, shape = found.types[name]
        _check(f"input {name}", array, shape, dtype)
    outputs = check_outputs(kept, found, arrays)
    if found.native is None:
        return call
    bound: Callable[..., Any] = found.native.bound(tuple(names), dict(arrays), outputs, call)
    return bound
