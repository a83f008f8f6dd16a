"""Layer: what all layers share - a name, parameters made on the first call, children, a summary.

What enters: a symbolic value of any type. What leaves: a symbolic value. Invariants: parameters are declared once, in
the scope of the first call; an unnamed layer takes the first free name of its kind ("dense_0"), found in what it is
applied to, so that names do not depend on what else the process has declared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from graphc import init, ops, provenance
from graphc.errors import GraphError
from graphc.ir import Node, topological
from graphc.types import DType, TensorType


class Layer:
    """Base of layers. Write :meth:`forward`, and :meth:`build` if it has parameters.

    Args:
        name: one part of a scope path; by default the kind and a number.

    >>> class Scale(Layer):
    ...     def build(self, x):
    ...         self.gain = self.parameter("gain", (x.shape[-1],), "ones", dtype=x.dtype)
    ...     def forward(self, x, *, training=None):
    ...         return x * self.gain
    >>> layer = Scale(); y = layer(ops.input("x", ("batch", 3)))
    >>> layer.parameters()[0].name
    'scale_0/gain'
    """

    def __init__(self, name: str | None = None) -> None:
        if name is not None and (not isinstance(name, str) or not name or "/" in name):
            raise GraphError(
                f"{name!r} cannot name a layer", source=provenance.capture(), help="use a word without slashes"
            )
        self.name = name
        self.seed = init.current_seed()
        self.path = ""
        self.calls: list[tuple[TensorType, TensorType]] = []
        self._variables: list[Node] = []

    # --- to be given by a layer ------------------------------------------------------------------------------------

    def build(self, x: Node) -> None:
        """Declare parameters, knowing the first value the layer is applied to."""
        return None

    def forward(self, x: Node, *, training: bool | None = None) -> Node:
        """Graph code of the layer."""
        raise GraphError(f"{type(self).__name__} has no forward", help="define forward(self, x, *, training=None)")

    # --- calling ---------------------------------------------------------------------------------------------------

    def __call__(self, x: Any, *, training: bool | None = None) -> Node:
        """Apply the layer.

        Args:
            x: a value; arrays become constants.
            training: True or False decides at once what random layers do; None leaves it to whoever compiles (a
                :class:`graphc.train.Trainer` trains with them, anything else runs without).
        """
        value = x if isinstance(x, Node) else ops.constant(x)
        if self.name is None:
            self.name = _free_name(type(self).__name__.lower(), value)
        with provenance.scope(self.name):
            if not self.calls:
                self.path = "/".join(provenance.scope_path())
                self._name_children()
                self.build(value)
            result = self.forward(value, training=training)
        self.calls.append((value.type, result.type))
        return result

    def parameter(self, name: str, shape: Sequence[Any], initializer: init.AnyInitializer, *, dtype: DType) -> Node:
        """Declare a trained parameter (inside :meth:`build`); the layer's seed applies to initialisers given by name."""
        return self._declare(name, shape, initializer, dtype, True)

    def state(self, name: str, shape: Sequence[Any], initializer: init.AnyInitializer, *, dtype: DType) -> Node:
        """Declare a variable that is kept but not trained."""
        return self._declare(name, shape, initializer, dtype, False)

    def _declare(
        self, name: str, shape: Sequence[Any], initializer: init.AnyInitializer, dtype: DType, trainable: bool
    ) -> Node:
        with init.seed(self.seed):
            make: Callable[..., Any] = init.get(initializer)
        node = ops.variable(name, tuple(shape), make, dtype=dtype, trainable=trainable)
        self._variables.append(node)
        return node

    # --- looking inside --------------------------------------------------------------------------------------------

    def children(self) -> dict[str, Layer]:
        """The layers inside of this one by name: layers held in attributes, or in lists in attributes."""
        found: dict[str, Layer] = {}
        for name, value in vars(self).items():
            if isinstance(value, Layer):
                found[name] = value
            elif isinstance(value, (list, tuple)):
                found.update({f"{name}_{i}": v for i, v in enumerate(value) if isinstance(v, Layer)})
        return found

    def _name_children(self) -> None:
        for name, child in self.children().items():
            if child.name is None:
                child.name = name

    def layers(self) -> Iterator[tuple[int, Layer]]:
        """This layer and all inside, each once, parents first, with their depth."""
        seen: set[int] = set()
        stack: list[tuple[int, Layer]] = [(0, self)]
        while stack:
            depth, layer = stack.pop()
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            yield depth, layer
            stack += [(depth + 1, child) for child in reversed(layer.children().values())]

    def variables(self) -> list[Node]:
        """Nodes of all variables, also those that are not trained, in the order of the layers.

        Raises:
            GraphError: the layer has not been called, so that there are none yet.
        """
        if not self.calls:
            raise GraphError(
                f"{self.name or type(self).__name__} has not been called yet and has no parameters",
                source=provenance.capture(),
                help="parameters are made by the first call, which tells their sizes: y = net(x)",
            )
        return list(dict.fromkeys(node for _, layer in self.layers() for node in layer._variables))

    def parameters(self) -> list[Node]:
        """Nodes of the trained parameters, each once, in the order of the layers (see :meth:`variables`)."""
        return [node for node in self.variables() if node.attrs["variable"].trainable]

    def summary(self) -> str:
        """A table of layers, output types and numbers of parameters, as text.

        >>> from graphc.nn import Dense
        >>> layer = Dense(2, name="out"); y = layer(ops.input("x", ("batch", 3)))
        >>> "f32[batch,2]" in layer.summary()
        True
        """
        from graphc.nn.summary import summary  # it reads layers: a cycle at the top

        return summary(self)

    def describe(self) -> str:
        """Arguments, for summaries."""
        return ""

    def __repr__(self) -> str:
        name = f"{self.name}: " if self.name else ""
        return f"<{name}{type(self).__name__}({self.describe()})>"


def _free_name(kind: str, x: Node) -> str:
    """``kind_0``, or the next number that no scope beside this one has in what ``x`` was computed from."""
    here = provenance.scope_path()
    depth = len(here)
    used = {
        node.source.scope[depth]
        for node in topological((x,))
        if node.source is not None and len(node.source.scope) > depth and node.source.scope[:depth] == here
    }
    number = 0
    while f"{kind}_{number}" in used:
        number += 1
    return f"{kind}_{number}"
