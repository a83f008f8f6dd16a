"""Recurrent layers: RNN, GRU, LSTM.

What enters: sequences ``[batch, time, features]``. What leaves: the state after every step ``[batch, time, units]``, or after the last one
``[batch, units]``. Invariants: the loop is one ``scan``; the input's products of all steps leave it, and so do the weights'
gradients; a layer called twice shares its weights and starts from zeros, unless it is given a state.

>>> import graphc.ops as ops
>>> x = ops.input("x", ("batch", 10, 8))
>>> layer = LSTM(16, name="lstm")
>>> str(layer(x).type), [str(p.type) for p in layer.parameters()]
('f32[batch,10,16]', ['f32[8,64]', 'f32[16,64]', 'f32[64]'])
>>> [str(s.type) for s in layer.last_state]
['f32[batch,16]', 'f32[batch,16]']
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc import init, ops, provenance
from graphc.errors import DTypeError, GraphError, ShapeError
from graphc.ir import Node
from graphc.nn.layer import Layer
from graphc.nn.layers import activation_function


class _Recurrent(Layer):
    """What the three share.

    Args:
        units: size of the state. return_sequences: the state after every step (default), or after the last one.
        reverse: from the last step to the first. input_init, recurrent_init, bias_init: initialisers of ``[features, gates *
            units]``, ``[units, gates * units]`` (orthogonal gate by gate unless given) and ``[gates * units]``.

    Attributes:
        last_state: the state after the last step of the latest call, a tuple of ``[batch, units]``.

    Raises:
        GraphError: units is not positive, or a state of the wrong number of values. ShapeError, DTypeError: not
            ``[batch, time, features]`` of floats with fixed features, or another size than the first time.
    """

    gates = 1
    states = 1

    def __init__(
        self, units: int, *, return_sequences: bool = True, reverse: bool = False,
        input_init: init.AnyInitializer = "glorot_uniform", recurrent_init: init.AnyInitializer = "orthogonal",
        bias_init: init.AnyInitializer = "zeros", name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name)
        if isinstance(units, bool) or not isinstance(units, int) or units < 1:
            raise GraphError(
                f"{type(self).__name__} needs a positive number of units, not {units!r}", source=provenance.capture()
            )
        self.units, self.return_sequences, self.reverse = units, return_sequences, reverse
        self.input_init, self.recurrent_init = init.get(input_init), init.get(recurrent_init)
        self.bias_init = init.get(bias_init)
        self.last_state: tuple[Node, ...] = ()
        self._given: tuple[Node, ...] = ()
        self._inputs = 0

    def __call__(self, x: Any, state: Sequence[Any] | Any = None, *, training: bool | None = None) -> Node:
        """Run over the sequence, from ``state`` (zeros unless given): ``[batch, units]``, or a tuple of them for LSTM."""
        given = () if state is None else tuple(state) if isinstance(state, (tuple, list)) else (state,)
        if given and len(given) != self.states:
            raise GraphError(
                f"{type(self).__name__} has a state of {self.states} values, got {len(given)}", source=provenance.capture()
            )
        self._given = tuple(s if isinstance(s, Node) else ops.constant(s) for s in given)
        return super().__call__(x, training=training)

    def build(self, x: Node) -> None:
        self._check(x)
        self._inputs = int(x.shape[-1])  # type: ignore[arg-type]
        wide = self.gates * self.units
        self.input_weight = self.parameter("input_weight", (self._inputs, wide), self.input_init, dtype=x.dtype)
        self.recurrent_weight = self.parameter(
            "recurrent_weight", (self.units, wide), self._by_gate(self.recurrent_init), dtype=x.dtype
        )
        self.bias = self.parameter("bias", (wide,), self._bias(), dtype=x.dtype)

    def _by_gate(self, initializer: Any) -> Any:
        """An initialiser that makes each gate's square on its own (an orthogonal one is orthogonal gate by gate)."""
        def make(shape: tuple[int, ...], dtype: Any, name: str) -> Any:
            parts = [initializer((self.units, self.units), dtype, f"{name}:{k}") for k in range(self.gates)]
            return np.concatenate(parts, axis=1)

        return make

    def _bias(self) -> Any:
        return self.bias_init

    def forward(self, x: Node, *, training: bool | None = None) -> Node:
        self._check(x)
        if x.shape[-1] != self._inputs:
            raise ShapeError(
                f"{self.path} was made for {self._inputs} features, the value has {x.shape[-1]}", source=provenance.capture()
            )
        start = self._given or tuple(ops.zeros((x.shape[0], self.units), x.dtype) for _ in range(self.states))
        series = ops.transpose(x, (1, 0, 2))
        self.last_state, outs = ops.scan(self.step, start, series, reverse=self.reverse)
        return ops.transpose(outs, (1, 0, 2)) if self.return_sequences else self.last_state[0]

    def step(self, state: tuple[Node, ...], x: Node) -> tuple[tuple[Node, ...], Node]:
        """One step: the next state, and what the layer gives."""
        raise GraphError(f"{type(self).__name__} has no step")

    def _gate(self, value: Node, number: int) -> Node:
        return value[:, number * self.units : (number + 1) * self.units]

    def _check(self, x: Node) -> None:
        if x.ndim != 3 or not isinstance(x.shape[-1], int):
            raise ShapeError(
                f"{self.path} works on [batch, time, features] with fixed features, got {x.type}", source=provenance.capture(),
                notes=(f"x: {x.type}   ({x.source})",),
            )  # fmt: skip
        if not x.dtype.is_float:
            raise DTypeError(
                f"{self.path} works on floating values, got {x.type}", source=provenance.capture(),
                help="look indices up first: nn.Embedding(count, features)(x)",
            )  # fmt: skip

    def describe(self) -> str:
        return f"{self.units}"


class RNN(_Recurrent):
    """``h' = tanh(x W + h U + b)``.

    Args:
        activation: instead of tanh. The others as of every recurrent layer.

    Source: Elman, "Finding structure in time" (1990).

    >>> str(RNN(5, return_sequences=False)(ops.input("x", ("batch", 7, 3))).type)
    'f32[batch,5]'
    """

    def __init__(self, units: int, *, activation: Any = "tanh", **options: Any) -> None:
        super().__init__(units, **options)
        self._function = activation_function(activation)

    def step(self, state: tuple[Node, ...], x: Node) -> tuple[tuple[Node, ...], Node]:
        (h,) = state
        h = self._function(x @ self.input_weight + self.bias + h @ self.recurrent_weight)
        return (h,), h


class LSTM(_Recurrent):
    """Long short-term memory; gates in the order input, forget, candidate, output::

        i, f, g, o = split(x W + h U + b)        c' = sigmoid(f) c + sigmoid(i) tanh(g)        h' = sigmoid(o) tanh(c')

    Args:
        forget_bias: added to the forget gate's bias at the start, 1 unless given, so that memory lasts at first.

    Sources: Hochreiter, Schmidhuber (1997); Gers et al. (2000) for the forget gate; Jozefowicz et al. (2015) for its bias.

    >>> layer = LSTM(4)
    >>> y = layer(ops.input("x", ("batch", 7, 3)))
    >>> layer.bias.attrs["variable"].value.tolist()[4:8]
    [1.0, 1.0, 1.0, 1.0]
    """

    gates = 4
    states = 2

    def __init__(self, units: int, *, forget_bias: float = 1.0, **options: Any) -> None:
        super().__init__(units, **options)
        self.forget_bias = forget_bias

    def _bias(self) -> Any:
        def make(shape: tuple[int, ...], dtype: Any, name: str) -> Any:
            value: Any = np.array(self.bias_init(shape, dtype, name))
            value[self.units : 2 * self.units] += self.forget_bias
            return value

        return make

    def step(self, state: tuple[Node, ...], x: Node) -> tuple[tuple[Node, ...], Node]:
        h, c = state
        gates = x @ self.input_weight + self.bias + h @ self.recurrent_weight
        keep, write = ops.sigmoid(self._gate(gates, 1)), ops.sigmoid(self._gate(gates, 0))
        c = keep * c + write * ops.tanh(self._gate(gates, 2))
        h = ops.sigmoid(self._gate(gates, 3)) * ops.tanh(c)
        return (h, c), h


class GRU(_Recurrent):
    """Gated recurrent unit; gates in the order reset, update, candidate::

        r = sigmoid(x Wr + h Ur + br)    z = sigmoid(x Wz + h Uz + bz)    n = tanh(x Wn + bn + r (h Un + cn))    h' = (1 - z) n + z h

    The reset gates ``cn``, too: it is a parameter of its own, ``recurrent_bias`` of ``[units]`` (for the other two gates a second bias
    would only add to the first).

    Source: Cho et al. (2014), with the reset after the product, as in cuDNN and torch.

    >>> str(GRU(4)(ops.input("x", ("batch", 7, 3))).type)
    'f32[batch,7,4]'
    """

    gates = 3

    def build(self, x: Node) -> None:
        super().build(x)
        self.recurrent_bias = self.parameter("recurrent_bias", (self.units,), self.bias_init, dtype=x.dtype)

    def step(self, state: tuple[Node, ...], x: Node) -> tuple[tuple[Node, ...], Node]:
        (h,) = state
        given = x @ self.input_weight + self.bias
        carried = h @ self.recurrent_weight
        reset = ops.sigmoid(self._gate(given, 0) + self._gate(carried, 0))
        update = ops.sigmoid(self._gate(given, 1) + self._gate(carried, 1))
        new = ops.tanh(self._gate(given, 2) + reset * (self._gate(carried, 2) + self.recurrent_bias))
        h = new + update * (h - new)
        return (h,), h
