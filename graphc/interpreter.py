"""The interpreter: runs a graph with NumPy, node by node. It is the oracle of every target.

What enters: a Graph and arrays by name. What leaves: arrays by output name, and new values of updated variables (which
it returns and never writes). Invariant: an op's value is what its ``reference`` says on arrays of exactly the node's type;
symbolic sizes are bound by the inputs and the graph is specialised first. Values are freed after their last use.

>>> from graphc.ops.sources import input
>>> run(Graph("f", {"y": input("x", ("n",))}), {"x": [1.0, 2.0]})["y"]
array([1., 2.], dtype=float32)
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np

from graphc.errors import IndexRangeError, InputError, NonFiniteError, VerifyError
from graphc.ir import Graph, Node
from graphc.specialise import specialise_nodes
from graphc.types import Dim, SymDim, TensorType
from graphc.variables import Variable

Keep = MutableMapping[Node, np.ndarray]
Watch: TypeAlias = Callable[[Node, float, np.ndarray, Sequence[np.ndarray]], None]  # node, seconds, value, operands


def run(
    graph: Graph, inputs: Mapping[str, Any], *, strict: bool = False, keep: Keep | None = None
) -> dict[str, np.ndarray]:
    """Outputs of ``graph`` by name.

    Args:
        inputs: arrays (or lists, numbers) by input name; see :func:`check_inputs`.
        strict: raise where a NaN or an infinity is born.
        keep: filled with the value of every node (and nothing is freed).

    Raises:
        InputError: inputs are missing, extra or ill-typed. IndexRangeError: an index lies outside of its axis.
        NonFiniteError: in strict mode; names the node and the user's line.
    """
    return run_with_updates(graph, inputs, strict=strict, keep=keep)[0]


def run_with_updates(
    graph: Graph, inputs: Mapping[str, Any], *, strict: bool = False, keep: Keep | None = None, watch: Watch | None = None
) -> tuple[dict[str, np.ndarray], dict[Variable, np.ndarray]]:
    """Outputs by name, and the next value of each updated variable; the variables themselves are not changed.

    ``watch`` is called after each node with the time that it took (nodes of a graph with open sizes: of the graph with sizes).
    """
    arrays, sizes = check_inputs(graph, inputs)
    mapping = specialise_nodes(graph, sizes) if sizes else None
    special = graph if mapping is None else graph.replace(mapping)
    values = _evaluate(special, arrays, strict, keep is None, watch)
    if keep is not None:
        keep.update({n: values[n if mapping is None else mapping[n]] for n in graph.nodes})
    outputs = {name: _own(values[node], arrays) for name, node in special.outputs.items()}
    updates = {node.attrs["variable"]: np.array(values[new]) for node, new in special.updates.items()}
    return outputs, updates


def evaluate(node: Node, inputs: Mapping[str, Any] | None = None, *, strict: bool = False) -> np.ndarray:
    """The value of one node.

    >>> from graphc.ops.sources import constant
    >>> evaluate(constant([1, 2]))
    array([1, 2], dtype=int32)
    """
    return run(Graph("value", {"value": node}), inputs or {}, strict=strict)["value"]


def _own(value: np.ndarray, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """A result that the caller may write to: never an input's memory, a broadcast view or a constant."""
    return np.array(value, order="C", copy=True)


def _evaluate(
    graph: Graph, arrays: Mapping[str, np.ndarray], strict: bool, freeing: bool, watch: Watch | None
) -> dict[Node, np.ndarray]:
    uses: dict[Node, int] = {}
    for node in graph.nodes:
        for operand in node.inputs:
            uses[operand] = uses.get(operand, 0) + 1
    for root in graph.roots:
        uses[root] = uses.get(root, 0) + 1
    values: dict[Node, np.ndarray] = {}
    tainted: set[Node] = set()  # values that descend from infinities in constants
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            begin = perf_counter()
            value = _value(node, values, arrays)
            if watch is not None:
                watch(node, perf_counter() - begin, value, [values[i] for i in node.inputs])
            values[node] = value
            if strict and value.dtype.kind == "f" and not np.isfinite(value).all():
                if node.op.name != "constant" and not any(i in tainted for i in node.inputs):
                    raise _non_finite(node, value, values)
                tainted.add(node)
            if freeing:
                for operand in node.inputs:
                    uses[operand] -= 1
                    if not uses[operand]:
                        values.pop(operand, None)
    return values


def _value(node: Node, values: Mapping[Node, np.ndarray], arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    if node.op.name == "input":
        return arrays[node.name]
    try:
        value = np.asanyarray(node.op.reference(*[values[i] for i in node.inputs], **node.attrs))
    except IndexError as error:
        if getattr(error, "source", None) is not None:
            raise
        message = getattr(error, "message", str(error))
        message = message if message.startswith(node.op.name) else f"{node.op.name}: {message}"
        help_ = getattr(error, "help", None)
        raise IndexRangeError(message, source=node.source, token=node.op.name, help=help_) from error
    if value.dtype != node.dtype.numpy or value.shape != node.shape:
        raise VerifyError(
            f"the reference of {node.op.name} gave {value.dtype}{list(value.shape)} for {node.type}",
            source=node.source, token=node.op.name, help="its type rule and its NumPy meaning disagree: mend the op",
        )  # fmt: skip
    return value


def _non_finite(node: Node, value: np.ndarray, values: Mapping[Node, np.ndarray]) -> NonFiniteError:
    nans = int(np.isnan(value).sum())
    infinities = int(np.isinf(value).sum())
    parts = [f"{n} {what}" for n, what in ((nans, "NaN"), (infinities, "infinite")) if n]
    label = f"{node.op.name} {node.name}" if node.name else node.op.name
    notes = []
    for i, operand in enumerate(node.inputs):
        array = values[operand]
        where = f"   ({operand.source.short})" if operand.source is not None else ""
        span = f"in [{array.min():g}, {array.max():g}]" if array.size and array.dtype.kind != "b" else ""
        notes.append(f"{operand.name or f'operand {i}'}: {operand.type} {span}{where}".rstrip())
    if node.primal is not None and node.primal.source is not None:
        notes.append(f"it is the derivative of {node.primal.op.name} at {node.primal.source.short}")
    return NonFiniteError(
        f"{label} gave {' and '.join(parts)} of {value.size} elements", source=node.source, token=node.op.name,
        notes=tuple(notes),
    )  # fmt: skip


# --- inputs --------------------------------------------------------------------------------------------------------


def check_inputs(graph: Graph, arrays: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Arrays of the declared types, and the symbolic sizes that they bind.

    Anything with ``__array__`` or ``__dlpack__`` is taken. NumPy arrays must have the declared dtype; Python numbers
    and lists are cast within their kind (and from int to float).

    Raises:
        InputError: a name is missing or unknown, a dtype or shape is wrong, or two inputs disagree on a size.
    """
    declared = {n.name: n for n in graph.inputs}
    missing = [n for n in declared if n not in arrays]
    if missing:
        first = declared[missing[0]]
        raise InputError(
            f"graph {graph.name} misses input{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            notes=tuple(f"{n}: {declared[n].type}{_where(declared[n])}" for n in missing),
            help=f"pass {first.name}=...",
        )  # fmt: skip
    for name in arrays:
        if name not in declared:
            near = difflib.get_close_matches(name, declared, 1)
            known = f"its inputs are: {', '.join(declared) or 'none'}"
            mend = f"did you mean {near[0]}?" if near else known
            raise InputError(f"graph {graph.name} has no input {name!r}", help=mend)
    result = {name: _array(node, arrays[name]) for name, node in declared.items()}
    return result, _bind(declared, result)


def _where(node: Node) -> str:
    return f"   ({node.source.short})" if node.source is not None else ""


def _array(node: Node, value: Any) -> np.ndarray:
    wanted = node.dtype.numpy
    typed = hasattr(value, "__array__") or hasattr(value, "__dlpack__")
    try:
        array = np.from_dlpack(value) if typed and not hasattr(value, "__array__") else np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"input {node.name} is no array: {error}", source=node.source) from error
    if array.dtype.newbyteorder("=") == wanted:
        return array.astype(wanted, copy=False)  # copies only what is in the other byte order
    if typed or not _castable(array, wanted):
        raise InputError(
            f"input {node.name} is {array.dtype}, declared as {node.type}{_where(node)}",
            help=f"pass {node.name}.astype('{wanted.name}'), or declare it with dtype='{array.dtype.name}'",
        )
    if wanted.kind in "iu" and array.size:
        info = np.iinfo(wanted)
        if array.min() < info.min or array.max() > info.max:
            raise InputError(f"input {node.name} holds {array.min()} to {array.max()}, too large for {node.dtype}")
    return array.astype(wanted)


def _castable(array: np.ndarray, wanted: np.dtype[Any]) -> bool:
    if array.size == 0:
        return True
    return array.dtype.kind in {"f": "fiu", "i": "iu", "u": "iu"}.get(wanted.kind, "")


def _bind(declared: Mapping[str, Node], arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    bound_by: dict[str, str] = {}
    for name, array in arrays.items():
        wanted = declared[name].type
        if array.ndim != wanted.rank:
            raise _shape_error(declared[name], array, f"it has {array.ndim} axes, not {wanted.rank}")
        for axis, (want, got) in enumerate(zip(wanted.shape, array.shape, strict=True)):
            if isinstance(want, int) and want != got:
                raise _shape_error(declared[name], array, f"axis {axis} is {got}, not {want}")
            found = _solve(want, got)
            if found is None:
                continue
            symbol, size = found
            if size < 0:
                raise _shape_error(declared[name], array, f"axis {axis} is {got}, which is not {want} for any {symbol}")
            if sizes.setdefault(symbol, size) != size:
                raise InputError(
                    f"{symbol} is {sizes[symbol]} in {bound_by[symbol]} but {size} in {name}",
                    notes=tuple(f"{n}: {declared[n].type} was given {list(arrays[n].shape)}{_where(declared[n])}"
                                for n in (bound_by[symbol], name)),
                )  # fmt: skip
            bound_by.setdefault(symbol, name)
    for name, array in arrays.items():
        _check_bound(declared[name], array, sizes)
    return sizes


def _solve(want: Dim, got: int) -> tuple[str, int] | None:
    """The symbol of ``c*symbol + k`` and its value for a size (-1: none fits); None for all other dimensions."""
    if isinstance(want, int) or len(want.names) != 1:
        return None
    terms = dict(want.terms)
    offset = terms.pop((), 0)
    if len(terms) != 1:
        return None
    (key, factor), *_ = terms.items()
    if len(key) != 1:
        return None
    size, rest = divmod(got - offset, factor)
    return key[0], size if rest == 0 else -1


def _check_bound(node: Node, array: np.ndarray, sizes: Mapping[str, int]) -> None:
    for axis, (want, got) in enumerate(zip(node.shape, array.shape, strict=True)):
        size = want.substitute(sizes) if isinstance(want, SymDim) else want
        if isinstance(size, SymDim):
            raise _shape_error(node, array, f"{', '.join(sorted(size.names))} cannot be found from the inputs' shapes")
        if size != got:
            raise _shape_error(node, array, f"axis {axis} is {got}, but {want} is {size}")


def _shape_error(node: Node, array: np.ndarray, why: str) -> InputError:
    return InputError(f"input {node.name} has shape {list(array.shape)}, declared as {node.type}{_where(node)}: {why}")


def random_inputs(graph: Graph, *, seed: int = 0, sizes: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
    """Random arrays of the inputs' types: normal floats, and integers 0 or 1 (valid as indices almost anywhere).

    Symbolic sizes become small different primes unless given.
    """
    primes = (3, 5, 7, 11, 13, 17, 19, 23)
    chosen = {name: primes[i % len(primes)] for i, name in enumerate(sorted(graph.symbols))} | dict(sizes or {})
    generator = np.random.default_rng(seed)
    made: dict[str, np.ndarray] = {}
    for node in graph.inputs:
        shape = TensorType(node.dtype, tuple(
            d.substitute(chosen) if isinstance(d, SymDim) else d for d in node.shape)).static_shape  # fmt: skip
        if node.dtype.is_float:
            made[node.name] = np.asarray(generator.standard_normal(shape), node.dtype.numpy)
        else:
            made[node.name] = np.asarray(generator.integers(0, 2, shape), node.dtype.numpy)
    return made
