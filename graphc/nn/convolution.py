"""The layers of convolutional nets: Conv1D, Conv2D, MaxPool2D, AvgPool2D, GlobalAvgPool2D.

What enters: images ``[batch, height, width, channels]`` (sequences ``[batch, length, channels]``). What leaves: the same
axes, spatial sizes as strides and padding say. Invariant: kernels are laid out ``[window..., channels / groups, filters]``,
so that initialisers find their fans.

>>> import graphc.ops as ops
>>> net = [Conv2D(32, 3, activation="relu"), MaxPool2D(2), Conv2D(64, 3, padding="same"), GlobalAvgPool2D()]
>>> x = ops.input("image", ("batch", 28, 28, 1))
>>> for layer in net:
...     x = layer(x)
>>> str(x.type)
'f32[batch,64]'
"""

from __future__ import annotations

from graphc import init, ops, provenance
from graphc.errors import DTypeError, GraphError, ShapeError
from graphc.ir import Node
from graphc.nn.layer import Layer
from graphc.nn.layers import Function, activation_function
from graphc.ops.spatial import Padding, PerAxis, per_axis, spatial_sizes


class _Conv(Layer):
    """What Conv1D and Conv2D share; ``rank`` is the number of spatial axes."""

    rank = 2

    def __init__(
        self,
        filters: int,
        window: PerAxis = 3,
        activation: str | Function | None = None,
        *,
        strides: PerAxis = 1,
        padding: Padding = "valid",
        dilation: PerAxis = 1,
        groups: int = 1,
        use_bias: bool = True,
        kernel_init: init.AnyInitializer = "glorot_uniform",
        bias_init: init.AnyInitializer = "zeros",
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        kind = type(self).__name__
        for what, value in (("filters", filters), ("groups", groups)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise GraphError(
                    f"{kind} needs a positive number of {what}, not {value!r}", source=provenance.capture()
                )
        if filters % groups:
            raise GraphError(f"{kind}: {groups} groups do not divide {filters} filters", source=provenance.capture())
        self.filters = filters
        self.window = per_axis(kind, "window", window, self.rank)
        self.strides = per_axis(kind, "strides", strides, self.rank)
        self.dilation = per_axis(kind, "dilation", dilation, self.rank)
        self.padding = padding
        self.groups = groups
        self.activation = activation
        self.use_bias = use_bias
        self.kernel_init = init.get(kernel_init)
        self.bias_init = init.get(bias_init)
        self._function = activation_function(activation)
        self._channels = 0

    def build(self, x: Node) -> None:
        self._check(x)
        channels = x.shape[-1]
        if not isinstance(channels, int) or channels % self.groups:
            raise ShapeError(
                f"{self.path}: {self.groups} groups do not divide the channels of {x.type}"
                if isinstance(channels, int)
                else f"{self.path}: the channels of {x.type} are symbolic, and a kernel needs a fixed size",
                source=provenance.capture(), notes=(f"x: {x.type}   ({x.source})",),
            )  # fmt: skip
        self._channels = channels
        shape = (*self.window, channels // self.groups, self.filters)
        self.weight = self.parameter("weight", shape, self.kernel_init, dtype=x.dtype)
        if self.use_bias:
            self.bias = self.parameter("bias", (self.filters,), self.bias_init, dtype=x.dtype)

    def forward(self, x: Node, *, training: bool | None = None) -> Node:
        self._check(x)
        if x.shape[-1] != self._channels:
            raise ShapeError(
                f"{self.path} was made for {self._channels} channels, the value has {x.shape[-1]}",
                source=provenance.capture(), notes=(f"x: {x.type}   ({x.source})",),
                help="a shared layer takes values of one size; use two layers",
            )  # fmt: skip
        convolve = ops.conv2d if self.rank == 2 else ops.conv1d
        y = convolve(
            x, self.weight, strides=self.strides, padding=self.padding, dilation=self.dilation, groups=self.groups
        )
        return self._function(y + self.bias if self.use_bias else y)

    def describe(self) -> str:
        parts = [str(self.filters), " x ".join(map(str, self.window))]
        parts += [f"strides {self.strides}"] if set(self.strides) != {1} else []
        parts += [f"padding {self.padding}"] if self.padding != "valid" else []
        parts += [f"groups {self.groups}"] if self.groups > 1 else []
        name = self.activation if isinstance(self.activation, str) else getattr(self.activation, "__name__", "")
        return ", ".join([*parts, name] if name else parts)

    def _check(self, x: Node) -> None:
        spatial_sizes(self.path, x, self.rank)
        if not x.dtype.is_float:
            raise DTypeError(
                f"{self.path} works on floating values, got {x.type}",
                source=provenance.capture(), help="convert with graphc.cast(x, 'float32')",
            )  # fmt: skip


class Conv2D(_Conv):
    """``activation(conv2d(x, weight) + bias)``: ``[batch, height, width, channels] -> [batch, rows, columns, filters]``.

    Args:
        filters: channels of the result.
        window: size of the window, one number or (height, width).
        activation: name or function, none by default.
        strides, padding, dilation, groups: as in :func:`graphc.conv2d`.
        use_bias: whether to add a bias.
        kernel_init: and ``bias_init``, name, number or initialiser of weight ``[height, width, channels / groups, filters]``
            and bias ``[filters]``; the fans count the window.

    Raises:
        GraphError: filters or groups are not positive, or do not divide. AttributeRuleError: an option is malformed.
        ShapeError: when called on a value of other axes or channels, or with a window larger than the padded image.
        DTypeError: when called on a value that is not floating.

    >>> layer = Conv2D(16, 3, activation="relu", padding="same", name="conv")
    >>> str(layer(ops.input("x", ("batch", 28, 28, 3))).type), [str(p.type) for p in layer.parameters()]
    ('f32[batch,28,28,16]', ['f32[3,3,3,16]', 'f32[16]'])
    """


class Conv1D(_Conv):
    """``activation(conv1d(x, weight) + bias)``: ``[batch, length, channels] -> [batch, windows, filters]``; see :class:`Conv2D`.

    >>> str(Conv1D(16, 5, strides=2)(ops.input("x", ("batch", 100, 3))).type)
    'f32[batch,48,16]'
    """

    rank = 1


class _Pool2D(Layer):
    def __init__(
        self,
        window: PerAxis = 2,
        *,
        strides: PerAxis | None = None,
        padding: Padding = "valid",
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.window = per_axis(type(self).__name__, "window", window, 2)
        self.strides = self.window if strides is None else per_axis(type(self).__name__, "strides", strides, 2)
        self.padding = padding

    def describe(self) -> str:
        parts = [" x ".join(map(str, self.window))]
        parts += [f"strides {self.strides}"] if self.strides != self.window else []
        return ", ".join([*parts, f"padding {self.padding}"] if self.padding != "valid" else parts)


class MaxPool2D(_Pool2D):
    """The largest element of each window: :func:`graphc.max_pool2d` as a layer, with its options and errors.

    >>> str(MaxPool2D(2)(ops.input("x", ("batch", 24, 24, 3))).type)
    'f32[batch,12,12,3]'
    """

    def forward(self, x: Node, *, training: bool | None = None) -> Node:
        return ops.max_pool2d(x, self.window, strides=self.strides, padding=self.padding)


class AvgPool2D(_Pool2D):
    """The mean of each window: :func:`graphc.avg_pool2d` as a layer, with its options and errors.

    >>> str(AvgPool2D(3, strides=2, padding="same")(ops.input("x", ("batch", 24, 24, 3))).type)
    'f32[batch,12,12,3]'
    """

    def forward(self, x: Node, *, training: bool | None = None) -> Node:
        return ops.avg_pool2d(x, self.window, strides=self.strides, padding=self.padding)


class GlobalAvgPool2D(Layer):
    """The mean of each channel over the whole image: ``[batch, height, width, channels] -> [batch, channels]``.

    Raises:
        ShapeError: when called on a value of other axes.

    >>> str(GlobalAvgPool2D()(ops.input("x", ("batch", 7, 7, 64))).type)
    'f32[batch,64]'
    """

    def forward(self, x: Node, *, training: bool | None = None) -> Node:
        spatial_sizes(self.path, x, 2)
        return ops.mean(x, axis=(1, 2))
