"""The layers: Dense, Dropout, Flatten, Activation, Lambda, Sequential.

What enters: values ``[batch, ..., features]``. What leaves: values of the same leading axes (Flatten apart). Invariant:
random layers draw from a counter-based stream keyed by seed, scope path and number of the call, at the step's counter.

>>> import graphc.ops as ops
>>> str(Flatten()(ops.input("image", ("batch", 28, 28))).type)
'f32[batch,784]'
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import TypeAlias

from graphc import init, ops, provenance, random
from graphc.errors import DTypeError, GraphError, ShapeError
from graphc.ir import Node
from graphc.nn.layer import Layer
from graphc.nn.phase import phase, training_step

Function: TypeAlias = Callable[[Node], Node]
ACTIVATIONS: dict[str, Function] = {
    "linear": lambda x: x,
    "relu": ops.relu,
    "leaky_relu": ops.leaky_relu,
    "elu": ops.elu,
    "gelu": ops.gelu,
    "silu": ops.silu,
    "sigmoid": ops.sigmoid,
    "log_sigmoid": ops.log_sigmoid,
    "tanh": ops.tanh,
    "softplus": ops.softplus,
    "softmax": ops.softmax,
    "log_softmax": ops.log_softmax,
}


def activation_function(which: str | Function | None) -> Function:
    """A function from its name, itself, or None for the identity.

    Raises:
        GraphError: no activation has that name.
    """
    if which is None:
        return ACTIVATIONS["linear"]
    if callable(which):
        return which
    if which not in ACTIVATIONS:
        near = difflib.get_close_matches(str(which), ACTIVATIONS, 3) or list(ACTIVATIONS)
        raise GraphError(
            f"unknown activation {which!r}", source=provenance.capture(), help=f"choose {' or '.join(near)}"
        )
    return ACTIVATIONS[which]


class Dense(Layer):
    """``activation(x @ weight + bias)`` on the last axis: ``[..., inputs] -> [..., units]``.

    Args:
        units: size of the result's last axis.
        activation: name or function, none by default.
        use_bias: whether to add a bias.
        kernel_init: and ``bias_init``, name, number or initialiser of weight ``[inputs, units]`` and bias ``[units]``.

    Raises:
        GraphError: ``units`` is not positive, or a name is unknown.
        ShapeError: when called on a value without axes, with a symbolic last axis, or of another size than the first
        time. DTypeError: when called on a value that is not floating.

    >>> layer = Dense(10, activation="softmax", name="out")
    >>> str(layer(ops.input("x", ("batch", 4))).type), [str(p.type) for p in layer.parameters()]
    ('f32[batch,10]', ['f32[4,10]', 'f32[10]'])
    """

    def __init__(
        self,
        units: int,
        activation: str | Function | None = None,
        *,
        use_bias: bool = True,
        kernel_init: init.AnyInitializer = "glorot_uniform",
        bias_init: init.AnyInitializer = "zeros",
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if isinstance(units, bool) or not isinstance(units, int) or units < 1:
            raise GraphError(f"Dense needs a positive number of units, not {units!r}", source=provenance.capture())
        self.units = units
        self.activation = activation
        self.use_bias = use_bias
        self.kernel_init = init.get(kernel_init)
        self.bias_init = init.get(bias_init)
        self._function = activation_function(activation)
        self._inputs = 0

    def build(self, x: Node) -> None:
        self._check(x)
        size = x.shape[-1]
        if not isinstance(size, int):
            raise ShapeError(
                f"{self.path}: the last axis of {x.type} is symbolic, and a weight needs a fixed size",
                source=provenance.capture(), notes=(f"x: {x.type}   ({x.source})",),
                help="declare the features by a number: graphc.input(name, ('batch', 784))",
            )  # fmt: skip
        self._inputs = size
        self.weight = self.parameter("weight", (size, self.units), self.kernel_init, dtype=x.dtype)
        if self.use_bias:
            self.bias = self.parameter("bias", (self.units,), self.bias_init, dtype=x.dtype)

    def forward(self, x: Node, *, training: bool | None = None) -> Node:
        self._check(x)
        if x.shape[-1] != self._inputs:
            raise ShapeError(
                f"{self.path} was made for {self._inputs} features, the value has {x.shape[-1]}",
                source=provenance.capture(), notes=(f"x: {x.type}   ({x.source})",),
                help="a shared layer takes values of one size; use two layers",
            )  # fmt: skip
        rows = x
        if x.ndim != 2:
            count = x.type.with_shape(x.shape[:-1]).size
            rows = ops.reshape(x, (count, self._inputs))
        y = ops.matmul(rows, self.weight)
        if self.use_bias:
            y = y + self.bias
        if x.ndim != 2:
            y = ops.reshape(y, (*x.shape[:-1], self.units))
        return self._function(y)

    def describe(self) -> str:
        name = self.activation if isinstance(self.activation, str) else getattr(self.activation, "__name__", "")
        return f"{self.units}, {name}" if name else f"{self.units}"

    def _check(self, x: Node) -> None:
        if x.ndim == 0:
            raise ShapeError(f"{self.path} needs features in the last axis, got {x.type}", source=provenance.capture())
        if not x.dtype.is_float:
            raise DTypeError(
                f"{self.path} works on floating values, got {x.type}",
                source=provenance.capture(), help="convert with graphc.cast(x, 'float32')",
            )  # fmt: skip


class Dropout(Layer):
    """In training, each element is 0 with probability ``rate`` and otherwise divided by ``1 - rate``; else the identity.

    Source: Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, "Dropout: a simple way to prevent neural networks
    from overfitting", JMLR 2014 (section 10: "inverted" at training time).

    The mask is Threefry's on (seed, scope path, number of the call) at the step's counter: the same bits on every
    target, new ones at every step, and the same again when a run is resumed. Called with ``training=True`` and compiled
    without a trainer, the step is 0 and the mask always the same.

    Raises:
        GraphError: the rate is outside of [0, 1).

    >>> from graphc.interpreter import evaluate
    >>> evaluate(Dropout(0.5)(ops.constant([1.0, 2.0]))).tolist()
    [1.0, 2.0]
    """

    def __init__(self, rate: float, *, name: str | None = None) -> None:
        super().__init__(name)
        if not 0 <= rate < 1:
            raise GraphError(f"a dropout rate is from 0 up to but not including 1, not {rate}")
        self.rate = rate

    def forward(self, x: Node, *, training: bool | None = None) -> Node:
        if training is False or self.rate == 0:
            return x
        stream = f"{self.path}:{len(self.calls)}"
        number = int.from_bytes(init.digest(self.seed, stream)[:8], "little")
        key = random.fold_in(random.key(number), training_step())
        keep = random.uniform(key, x.shape) >= self.rate
        dropped = ops.where(keep, x * (1.0 / (1.0 - self.rate)), 0.0)
        return dropped if training else phase(dropped, x, key=stream)

    def describe(self) -> str:
        return f"{self.rate}"


class Flatten(Layer):
    """All axes after the first as one: ``[batch, ...] -> [batch, features]``."""

    def forward(self, x: Node, *, training: bool | None = None) -> Node:
        if x.ndim == 0:
            raise ShapeError("Flatten needs a batch axis, got a scalar", source=provenance.capture())
        return ops.reshape(x, (x.shape[0], x.type.with_shape(x.shape[1:]).size))


class Activation(Layer):
    """An activation by name or function as a layer of its own.

    >>> str(Activation("tanh")(ops.input("x", (3,))).type)
    'f32[3]'
    """

    def __init__(self, activation: str | Function, *, name: str | None = None) -> None:
        super().__init__(name)
        self.activation = activation
        self._function = activation_function(activation)

    def forward(self, x: Node, *, training: bool | None = None) -> Node:
        return self._function(x)

    def describe(self) -> str:
        return self.activation if isinstance(self.activation, str) else getattr(self.activation, "__name__", "")


class Lambda(Layer):
    """Any function of a value as a layer.

    >>> str(Lambda(lambda x: x * x)(ops.input("x", (3,))).type)
    'f32[3]'
    """

    def __init__(self, function: Function, *, name: str | None = None) -> None:
        super().__init__(name)
        self.function = function

    def forward(self, x: Node, *, training: bool | None = None) -> Node:
        return self.function(x)

    def describe(self) -> str:
        return getattr(self.function, "__name__", "")


class Sequential(Layer):
    """Layers one after the other; unnamed ones are numbered by kind (dense_0, dropout_0, dense_1).

    Args:
        layers: layers, or functions (which become :class:`Lambda` layers). A layer given twice is shared.

    Raises:
        GraphError: something that is neither, or two different layers of one name.

    >>> net = Sequential(Flatten(), Dense(3), ops.relu, name="net")
    >>> str(net(ops.input("image", ("batch", 2, 2))).type), list(net.children())
    ('f32[batch,3]', ['flatten_0', 'dense_0', 'lambda_0'])
    """

    def __init__(self, *layers: Layer | Function, name: str | None = None) -> None:
        super().__init__(name)
        self._layers: list[Layer] = []
        for layer in layers:
            if not isinstance(layer, Layer) and not callable(layer):
                raise GraphError(f"{layer!r} is neither a layer nor a function", source=provenance.capture())
            self._layers.append(layer if isinstance(layer, Layer) else Lambda(layer))
        self._names = self._numbered()

    def _numbered(self) -> dict[str, Layer]:
        names: dict[str, Layer] = {}
        counts: dict[str, int] = {}
        for layer in dict.fromkeys(self._layers):
            name = layer.name
            if name is None:
                kind = type(layer).__name__.lower()
                name = f"{kind}_{counts.get(kind, 0)}"
                counts[kind] = counts.get(kind, 0) + 1
            if name in names:
                raise GraphError(f"two layers are named {name!r}", source=provenance.capture())
            names[name] = layer
        return names

    def children(self) -> dict[str, Layer]:
        return dict(self._names)

    def forward(self, x: Node, *, training: bool | None = None) -> Node:
        for layer in self._layers:
            x = layer(x, training=training)
        return x

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers)

    def __getitem__(self, index: int) -> Layer:
        return self._layers[index]

    def describe(self) -> str:
        return f"{len(self._layers)} layers"
