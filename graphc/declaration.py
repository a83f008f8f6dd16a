"""Declare a graph from a function: ``@graphc.graph`` runs it once on symbolic inputs.

What enters: a function whose parameters are annotated with tensor types. What leaves: a :class:`DeclaredGraph`, a Graph
builder that can be compiled, drawn and called on further symbolic values. The function's body runs exactly once for the
graph; nothing is traced again later. ::

    @graphc.graph
    def affine(x: graphc.f32["batch", 784], w: graphc.f32[784, 10]):
        return x @ w
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from graphc.errors import GraphError
from graphc.ir import Graph, Node
from graphc.ops.sources import input
from graphc.provenance import Source, scope
from graphc.types import DType, TensorType


def graph(function: Callable[..., Any]) -> Graph:
    """The graph of a function over annotated inputs, declared once.

    Args:
        function: each parameter is annotated with a tensor type (``graphc.f32["batch", 784]``) or, for a scalar, a dtype;
            it returns a symbolic value, a dict of them, or a tuple (named result0, result1, ...).

    Raises:
        GraphError: a parameter without a type, or a result that is no symbolic value.

    >>> from graphc.types import float32 as f32
    >>> @graph
    ... def double(x: f32["n"]):
    ...     return x + x
    >>> double
    <Graph double: 1 inputs, 2 nodes, 1 outputs>
    """
    name = getattr(function, "__name__", "graph")
    code = function.__code__
    source = Source(code.co_filename, code.co_firstlineno)
    annotations = _annotations(function)
    inputs = []
    for parameter in inspect.signature(function).parameters:
        type_ = annotations.get(parameter)
        if isinstance(type_, DType):
            type_ = TensorType(type_, ())
        if not isinstance(type_, TensorType):
            raise GraphError(
                f"{name}: parameter {parameter!r} has no tensor type",
                source=source,
                help=f'annotate it: def {name}({parameter}: graphc.f32["batch", 784])',
            )
        inputs.append(input(parameter, type_.shape, type_.dtype))
    with scope(name):
        result = function(*inputs)
    return Graph(name, _outputs(name, result, source), {}, tuple(inputs))


def _annotations(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Annotations as objects; strings (from ``__future__`` annotations) are evaluated where the function was defined."""
    found = dict(getattr(function, "__annotations__", {}))
    names = {**getattr(function, "__globals__", {}), **inspect.getclosurevars(function).nonlocals}
    for key, value in found.items():
        if isinstance(value, str):
            try:
                found[key] = eval(value, names)  # the annotation is the user's own code, as typing.get_type_hints does
            except NameError as error:
                raise GraphError(f"annotation {value!r} of {key} cannot be read: {error}") from error
    return found


def _outputs(name: str, result: Any, source: Source) -> dict[str, Node]:
    if isinstance(result, Node):
        return {"result": result}
    if isinstance(result, Mapping) and all(isinstance(v, Node) for v in result.values()):
        return dict(result)
    if isinstance(result, tuple) and all(isinstance(v, Node) for v in result):
        return {f"result{n}": v for n, v in enumerate(result)}
    raise GraphError(
        f"{name} returned {type(result).__name__}, not a symbolic value",
        source=source,
        help="return a value, a dict of values or a tuple of values",
    )
