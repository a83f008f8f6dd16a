"""Values that come from outside of the graph: inputs, parameters (state variables) and constants.

>>> x = input("x", ("batch", 3)); str(x.type)
'f32[batch,3]'
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphc import provenance
from graphc.errors import DTypeError, GraphError
from graphc.ir import Node, make
from graphc.ops.declare import Literal, NotDifferentiable, declare
from graphc.types import DType, TensorType, as_dtype, as_shape, float32, int32, int64
from graphc.variables import Variable, zeros


def _declared_type(types: tuple[TensorType, ...], *, type: TensorType, **attrs: Any) -> TensorType:
    return type


def _from_outside(*arrays: Any, **attrs: Any) -> Any:
    raise GraphError(f"the value of {attrs.get('name', 'an input')} comes from outside of the graph")


input_op = declare(
    "input", infer=_declared_type, reference=_from_outside, derivative=NotDifferentiable("an input has no operands"),
    latex="{name}", doc="A named value given at every call.", samples=None,
)  # fmt: skip
parameter_op = declare(
    "parameter", infer=lambda types, *, variable: variable.type, reference=lambda *, variable: variable.value,
    derivative=NotDifferentiable("a parameter has no operands"), latex="{name}", samples=None,
    doc="A state variable's value; programs may update it in place.",
)  # fmt: skip
constant_op = declare(
    "constant",
    infer=lambda types, *, value: TensorType(as_dtype(value.dtype), value.shape),
    reference=lambda *, value: value,
    derivative=NotDifferentiable("a constant has no operands"),
    lowering=Literal(lambda node: node.attrs["value"].item()), latex="{name}",
    doc="An array known when the graph is declared. A 0-d constant is a literal of the kernels that use it.",
    samples=None,
)


def input(name: str, shape: Any = (), dtype: Any = "float32") -> Node:
    """Declare an input of a model.

    Args:
        name: keyword by which a compiled program takes it.
        shape: sizes, each an int or the name of a symbolic size ("batch").
        dtype: float32 unless said.

    Raises:
        GraphError: the name is no identifier. ShapeError, DTypeError: the type is none.

    >>> str(input("label", ("batch",), dtype="int32").type)
    'i32[batch]'
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise GraphError(f"{name!r} cannot name an input", source=provenance.capture(), help="use a Python identifier")
    type_ = TensorType(as_dtype(dtype), as_shape(shape))
    return make(input_op, (), {"name": name, "type": type_}, name=name)


def variable(
    name: str,
    shape: Any = (),
    initializer: Callable[[tuple[int, ...], DType, str], np.ndarray] | None = None,
    *,
    dtype: Any = "float32",
    trainable: bool = True,
) -> Node:
    """Declare a state variable and return the node of its value; scopes prefix its name.

    ``initializer(shape, dtype, full_name)`` makes the first value (zeros if absent).

    >>> with provenance.scope("layer"):
    ...     variable("step", (), dtype="int32").name
    'layer/step'
    """
    path = "/".join((*provenance.scope_path(), name))
    type_ = TensorType(as_dtype(dtype), as_shape(shape))
    type_.static_shape  # noqa: B018  a variable needs memory: raises on symbolic sizes
    return parameter_node(Variable(path, type_, initializer or zeros, trainable))


def parameter_node(state: Variable) -> Node:
    """A node that reads a variable."""
    return make(parameter_op, (), {"variable": state}, name=state.name)


def parameter(name: str, shape: Any = (), initializer: Any = None, *, dtype: Any = "float32") -> Node:
    """A trainable variable (see :func:`variable`). ``initializer`` may also be an array or a number.

    >>> w = parameter("w", (2, 3), 0.5); w.attrs["variable"].value.sum().item()
    3.0
    """
    if initializer is not None and not callable(initializer):
        fixed = np.asarray(initializer)

        def initializer(shape: tuple[int, ...], dtype: DType, _: str) -> np.ndarray:
            array = fixed.astype(dtype.numpy, copy=False)
            return array if array.shape == tuple(shape) else np.broadcast_to(array, shape)

    return variable(name, shape, initializer, dtype=dtype)


def constant(value: Any, dtype: Any = None) -> Node:
    """A constant from an array or number: Python floats become float32, ints int32 (int64 if they need it).

    NumPy arrays and scalars keep their dtype, so float64 data stays float64.

    Raises:
        DTypeError: the values have no dtype of graphc's.

    >>> str(constant([1.0, 2.0]).type), str(constant(np.arange(3)).type)
    ('f32[2]', 'i64[3]')
    """
    if isinstance(value, Node):
        return value
    plain = not isinstance(value, (np.ndarray, np.generic))
    array = np.asarray(value)
    if dtype is not None:
        array = array.astype(as_dtype(dtype).numpy)
    elif plain and array.dtype == np.float64:
        array = array.astype(float32.numpy)
    elif plain and array.dtype == np.int64:
        fits = array.size == 0 or (array.min() >= -(2**31) and array.max() < 2**31)
        array = array.astype((int32 if fits else int64).numpy)
    if array.dtype.kind not in "biuf":
        raise DTypeError(f"a constant of dtype {array.dtype} is not supported", source=provenance.capture())
    as_dtype(array.dtype)
    array = np.array(array, order="C", copy=True)
    array.setflags(write=False)
    return make(constant_op, (), {"value": array})


