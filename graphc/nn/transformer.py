"""The layers of transformers: Embedding, LayerNorm, MultiHeadAttention, TransformerBlock, GPT.

What enters: token indices ``[batch, length]`` (Embedding, GPT) or values ``[batch, length, features]``. What leaves: values
``[batch, length, features]``, or logits for GPT. Invariants: queries, keys and values come from one product; blocks normalise before
each part and add its result to what came in, so that the sum runs through the whole net untouched.

Sources: Vaswani et al., "Attention is all you need" (2017); Radford et al., "Language models are unsupervised multitask learners"
(2019) for the order of normalisation, the initialisation and GELU.

>>> import graphc.ops as ops
>>> tokens = ops.input("tokens", ("batch", 16), dtype="int32")
>>> net = GPT(vocabulary=65, length=16, width=32, heads=4, depth=2, name="gpt")
>>> str(net(tokens).type), [p.name for p in net.parameters()][:2]
('f32[batch,16,65]', ['gpt/token/table', 'gpt/place/table'])
"""

from __future__ import annotations

from graphc import init, ops, provenance
from graphc.errors import DTypeError, GraphError, ShapeError
from graphc.ir import Node
from graphc.nn.layer import Layer
from graphc.nn.layers import Dense, Dropout
from graphc.types import as_dtype


def _positive(kind: str, **sizes: object) -> None:
    """Raise GraphError where a size is no positive number."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise GraphError(f"{kind} needs a positive {name}, not {value!r}", source=provenance.capture())


def _features(layer: Layer, x: Node, least: int = 1) -> int:
    """The size of the last axis of a floating value with at least so many axes."""
    if x.ndim < least or not x.dtype.is_float:
        wanted = "[batch, length, features]" if least > 1 else "features in the last axis"
        error = ShapeError if x.ndim < least else DTypeError
        raise error(f"{layer.path} works on floating values {wanted}, got {x.type}", source=provenance.capture())
    size = x.shape[-1]
    if not isinstance(size, int):
        raise ShapeError(
            f"{layer.path}: the last axis of {x.type} is symbolic, and a weight needs a fixed size",
            source=provenance.capture(), notes=(f"x: {x.type}   ({x.source})",), help="declare the features by a number",
        )  # fmt: skip
    return size


class Embedding(Layer):
    """Rows of a table by index: ``i32[...] -> [..., features]``.

    Args:
        count: how many different indices there are. An index outside of ``-count .. count-1`` is an IndexRangeError at run time.
        table_init: initialiser of the table ``[count, features]``; normal with deviation 0.02 unless given, as GPT-2's.

    Raises:
        GraphError: a size is not positive. DTypeError: indices that are not integers.

    >>> layer = Embedding(10, 4)
    >>> str(layer(ops.input("i", ("batch", 7), dtype="int32")).type)
    'f32[batch,7,4]'
    """

    def __init__(
        self, count: int, features: int, *, table_init: init.AnyInitializer | None = None, dtype: str = "float32",
        name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name)
        _positive("Embedding", count=count, features=features)
        self.count, self.features, self.dtype = count, features, as_dtype(dtype)
        self.table_init = init.normal(std=0.02) if table_init is None else init.get(table_init)

    def build(self, x: Node) -> None:
        self.table = self.parameter("table", (self.count, self.features), self.table_init, dtype=self.dtype)

    def forward(self, x: Node, *, training: bool | None = None) -> Node:
        if not x.dtype.is_integer:
            raise DTypeError(
                f"{self.path} looks rows up by integers, got {x.type}", source=provenance.capture(),
                help='declare the indices with dtype="int32"',
            )  # fmt: skip
        return ops.take(self.table, x, axis=0)

    def describe(self) -> str:
        return f"{self.count} x {self.features}"


class LayerNorm(Layer):
    """Each row of the last axis with mean 0 and variance 1, times a gain (1 at first), plus a shift (0 at first).

    Source: Ba, Kiros, Hinton, "Layer normalization" (2016).

    >>> str(LayerNorm()(ops.input("x", ("batch", 8))).type)
    'f32[batch,8]'
    """

    def __init__(self, *, eps: float = 1e-5, name: str | None = None) -> None:
        super().__init__(name)
        if not eps > 0:
            raise GraphError(f"LayerNorm needs a positive eps, not {eps!r}", source=provenance.capture())
        self.eps = eps

    def build(self, x: Node) -> None:
        size = _features(self, x)
        self.gain = self.parameter("gain", (size,), "ones", dtype=x.dtype)
        self.shift = self.parameter("shift", (size,), "zeros", dtype=x.dtype)

    def forward(self, x: Node, *, training: bool | None = None) -> Node:
        return ops.layer_norm(x, self.gain, self.shift, self.eps)


class MultiHeadAttention(Layer):
    """Self-attention in several heads: ``[batch, length, features] -> [batch, length, features]``.

    Queries, keys and values come from one product ``[features, 3 features]``; each head attends with ``features / heads`` of
    them; the heads' results, side by side, pass through a last product.

    Args:
        heads: divides the features. causal: whether a place sees only itself and what stands before it.
        dropout: rate of the dropout on the result. kernel_init: initialiser of both weights. use_bias: in both products.

    Raises:
        GraphError: heads is not positive. ShapeError: heads do not divide the features, or the value has not three axes.

    Source: Vaswani et al. (2017), section 3.2.2.

    >>> layer = MultiHeadAttention(4, causal=True)
    >>> str(layer(ops.input("x", ("batch", 10, 32))).type), [str(p.type) for p in layer.parameters()]
    ('f32[batch,10,32]', ['f32[32,96]', 'f32[96]', 'f32[32,32]', 'f32[32]'])
    """

    def __init__(
        self, heads: int, *, causal: bool = False, dropout: float = 0.0, use_bias: bool = True,
        kernel_init: init.AnyInitializer = "glorot_uniform", name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name)
        _positive("MultiHeadAttention", heads=heads)
        self.heads, self.causal, self.use_bias = heads, causal, use_bias
        self.kernel_init = init.get(kernel_init)
        self.drop = Dropout(dropout)

    def build(self, x: Node) -> None:
        size = _features(self, x, least=3)
        if size % self.heads:
            raise ShapeError(
                f"{self.path}: {self.heads} heads do not divide the {size} features of {x.type}", source=provenance.capture()
            )
        self.qkv = Dense(3 * size, kernel_init=self.kernel_init, use_bias=self.use_bias, name="qkv")
        self.project = Dense(size, kernel_init=self.kernel_init, use_bias=self.use_bias, name="project")

    def forward(self, x: Node, *, training: bool | None = None) -> Node:
        size = _features(self, x, least=3)
        batch, length = x.shape[:2]
        together = self.qkv(x, training=training)

        def head(part: int) -> Node:
            rows = together[:, :, part * size : (part + 1) * size]
            split = ops.reshape(rows, (batch, length, self.heads, size // self.heads))
            return ops.transpose(split, (0, 2, 1, 3))

        mixed = ops.scaled_dot_product_attention(head(0), head(1), head(2), causal=self.causal)
        joined = ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (batch, length, size))
        return self.drop(self.project(joined, training=training), training=training)

    def describe(self) -> str:
        return f"{self.heads} heads{', causal' if self.causal else ''}"


class TransformerBlock(Layer):
    """Attention, then two dense layers, each on normalised rows and added to what came in.

    ``x + attention(norm(x))``, then ``x + down(gelu(up(norm(x))))``, with ``up`` four times as wide unless ``hidden`` is given.

    Args:
        heads, causal: as of :class:`MultiHeadAttention`. hidden: width between the dense layers. dropout: rate on both results.
        activation: between the dense layers.

    Source: Radford et al. (2019), section 2.3.

    >>> str(TransformerBlock(4, causal=True)(ops.input("x", ("batch", 10, 32))).type)
    'f32[batch,10,32]'
    """

    def __init__(
        self, heads: int, *, causal: bool = False, hidden: int | None = None, dropout: float = 0.0, activation: str = "gelu",
        kernel_init: init.AnyInitializer = "glorot_uniform", name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name)
        if hidden is not None:
            _positive("TransformerBlock", hidden=hidden)
        self.hidden, self.activation = hidden, activation
        self.kernel_init = init.get(kernel_init)
        self.norm_1, self.norm_2 = LayerNorm(), LayerNorm()
        self.attention = MultiHeadAttention(heads, causal=causal, dropout=dropout, kernel_init=kernel_init)
        self.drop = Dropout(dropout)

    def build(self, x: Node) -> None:
        size = _features(self, x, least=3)
        self.up = Dense(self.hidden or 4 * size, self.activation, kernel_init=self.kernel_init, name="up")
        self.down = Dense(size, kernel_init=self.kernel_init, name="down")

    def forward(self, x: Node, *, training: bool | None = None) -> Node:
        x = x + self.attention(self.norm_1(x, training=training), training=training)
        wide = self.up(self.norm_2(x, training=training), training=training)
        return x + self.drop(self.down(wide, training=training), training=training)

    def describe(self) -> str:
        return self.attention.describe()


class GPT(Layer):
    """A decoder-only transformer: ``i32[batch, t] -> [batch, t, vocabulary]``, logits of the next token at each place.

    Args:
        vocabulary: number of tokens. length: most places there are; t may be smaller. width: features. heads, depth: of the blocks.
        dropout: rate on embeddings and in blocks. tied: whether the logits are products with the embedding's own table.

    Raises:
        GraphError: a size is not positive. ShapeError: tokens that are not ``[batch, t]`` with a fixed t up to ``length``.

    Weights are normal with deviation 0.02, as GPT-2's.

    >>> net = GPT(vocabulary=65, length=32, width=64, heads=4, depth=2, tied=True)
    >>> str(net(ops.input("tokens", ("batch", 32), dtype="int32")).type)
    'f32[batch,32,65]'
    """

    def __init__(
        self, vocabulary: int, length: int, width: int, heads: int, depth: int, *, dropout: float = 0.0, tied: bool = False,
        name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name)
        _positive("GPT", vocabulary=vocabulary, length=length, width=width, heads=heads, depth=depth)
        self.length, self.tied = length, tied
        weights = init.normal(std=0.02)
        self.token = Embedding(vocabulary, width)
        self.place = Embedding(length, width)
        self.drop = Dropout(dropout)
        self.block = [TransformerBlock(heads, causal=True, dropout=dropout, kernel_init=weights) for _ in range(depth)]
        self.norm = LayerNorm()
        self.head = None if tied else Dense(vocabulary, use_bias=False, kernel_init=weights, name="head")

    def forward(self, x: Node, *, training: bool | None = None) -> Node:
        places = x.shape[1] if x.ndim == 2 else None
        if not isinstance(places, int) or places > self.length:
            raise ShapeError(
                f"{self.path} takes tokens [batch, t] with t up to {self.length}, got {x.type}", source=provenance.capture(),
                help='declare graphc.input("tokens", ("batch", t), dtype="int32")',
            )  # fmt: skip
        y = self.token(x, training=training) + self.place(ops.arange(places), training=training)
        y = self.drop(y, training=training)
        for block in self.block:
            y = block(y, training=training)
        y = self.norm(y, training=training)
        if self.head is not None:
            return self.head(y, training=training)
        rows = ops.reshape(y, (y.type.with_shape(y.shape[:-1]).size, y.shape[-1]))
        logits = ops.matmul(rows, ops.transpose(self.token.table))
        return ops.reshape(logits, (*y.shape[:-1], self.token.count))

    def describe(self) -> str:
        return f"{len(self.block)} blocks"
