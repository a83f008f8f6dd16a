"""A network as a table: layers, the types they were called to give, numbers of parameters.

What enters: a called layer. What leaves: text. Invariant: a shared layer is one row, and its parameters count once.
"""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from graphc.ir import Node
from graphc.nn.layer import Layer


def summary(net: Layer, *, width: int = 100) -> str:
    """The table of a network (see :meth:`graphc.nn.layer.Layer.summary`).

    Raises:
        GraphError: the network has not been called.
    """
    variables = net.variables()
    table = Table(title=f"{net.name}", show_footer=True)
    table.add_column("layer", footer="total", overflow="fold")
    table.add_column("kind", overflow="fold")
    table.add_column("output", overflow="fold")
    table.add_column("parameters", justify="right", footer=f"{sum(map(_size, variables)):,}")
    for depth, layer in net.layers():
        output = str(layer.calls[-1][1]) if layer.calls else "not called"
        shared = f" ×{len(layer.calls)}" if len(layer.calls) > 1 else ""
        count = sum(map(_size, layer._variables))
        kind = f"{type(layer).__name__}({layer.describe()})"
        table.add_row("  " * depth + str(layer.name) + shared, kind, output, f"{count:,}" if count else "")
    text = io.StringIO()
    Console(file=text, width=width, color_system=None, highlight=False, markup=False).print(table)
    return text.getvalue()


def _size(node: Node) -> int:
    size = node.type.size
    assert isinstance(size, int)  # variables are static
    return size
