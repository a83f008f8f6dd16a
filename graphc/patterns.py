r"""Rewrite rules written as graph code: ``(pattern, replacement)`` over variables that match any node.

What enters: a function whose parameters are the variables. What leaves: a :class:`Rule`, which matches at a root node,
builds its replacement, prints itself and typesets itself. Invariant: a rule reads only its root and nodes below it, and
its replacement has the root's type. ::

    @rule("exact")
    def neg_neg(x):
        return neg(neg(x)), x                      # prints as: neg(neg(x)) -> x [exact]

    @rule("real", when=lambda x: x.dtype.is_float)
    def times_zero(x):
        return mul(x, 0), 0                        # the replacement becomes a broadcast 0 of the root's type

    @rule("exact", types={"x": "f64[4,5]"})
    def log_of_softmax(x, *, axis=1):              # keyword-only: an attribute; its default is the traced example
        return log(softmax(x, axis=axis)), log_softmax(x, axis=axis)

    @rule("exact", on="reshape")                   # procedural, where a pattern cannot say it; None declines
    def reshape_reshape(node):
        "reshape(reshape(x)) -> reshape(x)"
        ...

Matching: variables match any node, the same variable twice the same node; a number (or a broadcast number) in a pattern
matches an equal constant, also under a broadcast, and tells -0.0 from 0.0; commutative primitives match in both orders.
"exact" rules are bit-identical on NaN, infinities and -0.0; "real" ones hold over the reals.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np

from graphc import provenance
from graphc.errors import GraphError, PassError
from graphc.ir import REGISTRY, Node
from graphc.ops.declare import placeholder
from graphc.scalar import PRIMITIVES
from graphc.types import TensorType, as_dtype, as_shape, float64

Kind: TypeAlias = Literal["exact", "real"]
Bindings: TypeAlias = dict[str, Any]
Replacement: TypeAlias = Node | float | int | bool | None
Rewrite: TypeAlias = tuple[Node, Node | float | int | bool]  # (pattern, replacement): what a rule's function gives


@dataclass(frozen=True)
class Match:
    """A rule that fits a root: variables -> nodes (attributes -> values), and the nodes that were read, root first."""

    bindings: Mapping[str, Any]
    nodes: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Rule:
    """One rewrite rule (make it with :func:`rule`).

    Attributes:
        name: the function's. kind: "exact" or "real".
        fn: (pattern, replacement) of the variables, or for ``on`` rules the replacement of a root (or None).
        when: guard; takes any of the variables by name, and ``root``.
        types: types that variables are traced with; f64 scalars unless said. They do not restrict what is matched.
        on: names of root ops of a procedural rule.
    """

    name: str
    kind: Kind
    fn: Callable[..., Any]
    when: Callable[..., bool] | None = None
    types: Mapping[str, TensorType] = field(default_factory=dict)
    on: tuple[str, ...] = ()

    @property
    def doc(self) -> str:
        """First paragraph of the function's docstring."""
        return (inspect.getdoc(self.fn) or "").split("\n\n")[0]

    @cached_property
    def _traced(self) -> _Traced:
        return _trace(self)

    @property
    def pattern(self) -> Node | None:
        """The pattern over placeholder inputs; None for a procedural rule."""
        return None if self.on else self._traced.pattern

    @property
    def roots(self) -> tuple[str, ...]:
        """Names of the ops that the rule can fire on."""
        return self.on or (self._traced.pattern.op.name,)

    @cached_property
    def _guard_names(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.when).parameters) if self.when else ()

    def may_match(self, root: str, operands: tuple[str, ...]) -> bool:
        """Whether ops of these names, at the root and right below it, can fit: a cheap test that sorts most rules out."""
        if root not in self.roots:
            return False
        if self.on:
            return True
        patterns = self._traced.pattern.inputs
        orders = [operands, operands[::-1]] if _commutes(root) else [operands]
        return len(patterns) == len(operands) and any(
            all(self._may_be(p, name) for p, name in zip(patterns, order, strict=True)) for order in orders
        )

    def _may_be(self, pattern: Node, name: str) -> bool:
        if pattern in self._traced.variables:
            return True
        if literal(pattern) is not None:
            return name in ("constant", "broadcast", "reshape")
        return pattern.op.name == name

    def matches(self, root: Node) -> Iterator[Match]:
        """All ways in which the pattern fits ``root`` and the guard holds."""
        if self.on:
            if root.op.name in self.on and self._admits(root, {"node": root}):
                yield Match({"node": root}, (root, *root.inputs))
            return
        for bindings, nodes in _match(self._traced, self._traced.pattern, root, {}, ()):
            if len(bindings) == len(self._traced.names) and self._admits(root, bindings):
                yield Match(bindings, tuple(dict.fromkeys((root, *nodes))))

    def _admits(self, root: Node, bindings: Mapping[str, Any]) -> bool:
        if self.when is None:
            return True
        scope = {**bindings, "root": root}
        return bool(self.when(**{name: scope[name] for name in self._guard_names}))

    def build(self, root: Node, match: Match) -> Node | None:
        """The replacement of ``root``, of its type; None when a procedural rule declines.

        Raises:
            PassError: the rule's replacement has another type than its root.
        """
        made = self.fn(root) if self.on else self.fn(**match.bindings)[1]
        return None if made is None else adapt(self, made, root)

    def __str__(self) -> str:
        if self.on:
            return f"{self.doc or self.name} [{self.kind}]"
        traced = self._traced
        made = traced.replacement
        right = _render(traced, made) if isinstance(made, Node) else f"{made:g}"
        return f"{_render(traced, traced.pattern)} -> {right} [{self.kind}]"

    def latex(self) -> str:
        r"""The rule as a formula, ``--x \to x``; procedural rules give their text."""
        if self.on:
            return rf"\text{{{self.doc or self.name}}}"
        traced = self._traced
        made = traced.replacement
        right = _latex(traced, made) if isinstance(made, Node) else f"{made:g}"
        return rf"{_latex(traced, traced.pattern)} \to {right}"


def rule(
    kind: Kind, *, when: Callable[..., bool] | None = None, types: Mapping[str, str | TensorType] | None = None,
    on: str | tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], Rule]:  # fmt: skip
    """Declare a rewrite rule; see the module's docstring for the three forms.

    Raises:
        GraphError: ``kind`` is neither "exact" nor "real".
    """
    if kind not in ("exact", "real"):
        raise GraphError(f"a rule is 'exact' or 'real', not {kind!r}")
    roots = (on,) if isinstance(on, str) else tuple(on)
    traced = {name: t if isinstance(t, TensorType) else _type(t) for name, t in (types or {}).items()}
    return lambda fn: Rule(fn.__name__, kind, fn, when, traced, roots)


def _type(text: str) -> TensorType:
    """``"bool"`` or ``"f64[4,5]"``."""
    found = re.fullmatch(r"(\w+)(?:\[([\w,]*)\])?", text.replace(" ", ""))
    if found is None:
        raise GraphError(f"{text!r} is no type", help="write it as f64[4,5]")
    sizes = [s for s in (found[2] or "").split(",") if s]
    return TensorType(as_dtype(found[1]), as_shape(int(s) if s.isdigit() else s for s in sizes))


# --- tracing and matching ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Traced:
    pattern: Node
    replacement: Any
    variables: Mapping[Node, str]
    attributes: Mapping[str, Any]  # name -> example value
    names: frozenset[str]


def _trace(rule: Rule) -> _Traced:
    parameters = inspect.signature(rule.fn).parameters.values()
    examples = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    with provenance.deriving("rule", rule.name):
        variables = {
            p.name: placeholder(rule.types.get(p.name, TensorType(float64, ())), p.name)
            for p in parameters
            if p.kind is not p.KEYWORD_ONLY
        }
        pattern, replacement = rule.fn(**variables, **examples)
    if not isinstance(pattern, Node) or pattern in variables.values():
        raise GraphError(f"rule {rule.name}: the pattern must be an operation", help="return (pattern, replacement)")
    names = frozenset((*variables, *examples))
    return _Traced(pattern, replacement, {node: name for name, node in variables.items()}, examples, names)


def literal(node: Node) -> np.generic | None:
    """The number that ``node`` is everywhere: a 0-d constant, or a broadcast or reshape of one; else None."""
    while node.op.name in ("broadcast", "reshape"):
        node = node.inputs[0]
    if node.op.name != "constant" or node.type.shape != ():
        return None
    value: np.generic = node.attrs["value"][()]
    return value


def _commutes(name: str) -> bool:
    row = PRIMITIVES.get(name)
    return row is not None and row.commutative


def same_number(pattern: np.generic, value: np.generic) -> bool:
    """Whether a pattern's number, cast to the matched dtype, is this value; NaN is itself, -0.0 is not 0.0."""
    if value.dtype.kind == "f":
        wanted, got = float(value.dtype.type(pattern)), float(value)
        if math.isnan(wanted) or math.isnan(got):
            return math.isnan(wanted) and math.isnan(got)
        return wanted == got and math.copysign(1.0, wanted) == math.copysign(1.0, got)
    return bool(pattern == value)


def _match(
    traced: _Traced, pattern: Node, node: Node, bindings: Bindings, nodes: tuple[Node, ...]
) -> Iterator[tuple[Bindings, tuple[Node, ...]]]:
    """Backtracking over the operand orders; recursion is over the (small) pattern, never over the graph."""
    name = traced.variables.get(pattern)
    if name is not None:
        if bindings.setdefault(name, node) is node:
            yield bindings, nodes
        return
    number = literal(pattern)
    if number is not None:
        value = literal(node)
        if value is not None and same_number(number, value):
            yield bindings, (*nodes, node)
        return
    if pattern.op is not node.op or len(pattern.inputs) != len(node.inputs):
        return
    bound = _match_attributes(traced, pattern, node, bindings)
    if bound is None:
        return
    orders = [node.inputs, node.inputs[::-1]] if _commutes(pattern.op.name) else [node.inputs]
    if len(orders) == 2 and node.inputs[0] is node.inputs[1]:
        orders.pop()
    for operands in orders:
        yield from _match_operands(traced, pattern.inputs, operands, dict(bound), (*nodes, node))


def _match_operands(
    traced: _Traced, patterns: tuple[Node, ...], operands: tuple[Node, ...], bindings: Bindings, nodes: tuple[Node, ...]
) -> Iterator[tuple[Bindings, tuple[Node, ...]]]:
    if not patterns:
        yield bindings, nodes
        return
    for bound, seen in _match(traced, patterns[0], operands[0], dict(bindings), nodes):
        yield from _match_operands(traced, patterns[1:], operands[1:], bound, seen)


def _match_attributes(traced: _Traced, pattern: Node, node: Node, bindings: Bindings) -> Bindings | None:
    bound = dict(bindings)
    for key, wanted in pattern.attrs.items():
        got = node.attrs.get(key)
        name = next((n for n, v in traced.attributes.items() if type(v) is type(wanted) and v == wanted), None)
        if name is None:
            if wanted != got:
                return None
        elif bound.setdefault(name, got) != got:
            return None
    return bound


def adapt(rule: Rule, made: Replacement, root: Node) -> Node:
    """A replacement of the root's type: numbers become constants of its dtype, scalars are broadcast to its shape."""
    if not isinstance(made, Node):
        value = np.asarray(made, root.dtype.numpy)
        value.setflags(write=False)
        made = REGISTRY["constant"](value=value)
    if made.type == root.type:
        return made
    if made.dtype == root.dtype and made.shape == ():
        return REGISTRY["broadcast"](made, shape=root.shape)
    raise PassError(
        f"rule {rule.name} changes the type of {root.op.name}: {root.type} became {made.type}", source=root.source,
        token=root.op.name, help="a replacement must have its root's dtype and shape",
    )  # fmt: skip


# --- rules as text -------------------------------------------------------------------------------------------------


def _render(traced: _Traced, node: Node) -> str:
    if node in traced.variables:
        return traced.variables[node]
    number = literal(node)
    if number is not None:
        return f"{number:g}" if number.dtype.kind == "f" else str(number)
    operands = [_render(traced, i) for i in node.inputs]
    by_value = {repr(v): k for k, v in traced.attributes.items()}
    attrs = [f"{k}={by_value.get(repr(v), v)}" for k, v in node.attrs.items() if k != "type"]
    return f"{node.op.name}({', '.join(operands + attrs)})"


def _latex(traced: _Traced, node: Node) -> str:
    if node in traced.variables:
        return traced.variables[node]
    number = literal(node)
    if number is not None:
        return f"{number:g}" if number.dtype.kind == "f" else str(number)
    operands = [_latex(traced, i) for i in node.inputs]
    operands = [f"({o})" if i.inputs and literal(i) is None and len(i.inputs) > 1 else o
                for o, i in zip(operands, node.inputs, strict=True)]  # fmt: skip
    if not node.op.latex:
        return rf"\mathrm{{{node.op.name}}}({', '.join(operands)})"
    attrs = {k: traced.attributes.get(k, v) for k, v in node.attrs.items()}
    return fill_latex(node.op.latex, operands, attrs)


def fill_latex(template: str, operands: list[str], attrs: Mapping[str, Any]) -> str:
    r"""Put operands and attributes into an op's formula, which is a ``str.format`` template.

    >>> fill_latex(r"\frac{{{0}}}{{{1}}}", ["a", "b"], {})
    '\\frac{a}{b}'
    """
    return template.format(*operands, **attrs)

