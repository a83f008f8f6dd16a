"""graphc: a declarative graph compiler and educational visualizer.

A model is declared once as a static graph; everything else is derived from it: its gradient, its kernels, its pictures.

>>> import graphc
>>> x = graphc.input("x", ("batch", 3))
>>> y = graphc.sum(graphc.tanh(x) ** 2)
>>> gradient = graphc.grad(y, wrt=x)
>>> str(gradient.type)
'f32[batch,3]'

The public names live in their modules and are loaded on first use, which keeps ``import graphc`` quick and free of import
cycles. Every function of :mod:`graphc.ops` is also a name of this package.
"""

from __future__ import annotations

import builtins
import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS: dict[str, str] = {
    # declaring
    "scope": "graphc.provenance",
    "Graph": "graphc.ir",
    "Node": "graphc.ir",
    "graph": "graphc.declaration",
    "bool_": "graphc.types",
    "int32": "graphc.types",
    "int64": "graphc.types",
    "uint32": "graphc.types",
    "float32": "graphc.types",
    "float64": "graphc.types",
    "GraphcError": "graphc.errors",
    # transforming
    "grad": "passes.differentiate",
    "value_and_grad": "passes.differentiate",
    "vjp": "passes.differentiate",
    "jvp": "passes.differentiate",
    "jacobian": "passes.differentiate",
    "hessian": "passes.differentiate",
    "hvp": "passes.differentiate",
    # running
    "compile": "graphc.driver",
    "Program": "graphc.driver",
    "Profile": "graphc.profile",
    "threads": "graphc.parallelism",
    "roofline": "graphc.targets.cpu.roofline",
    "Trainer": "graphc.train",
    "seed": "graphc.init",
    # text
    "print_graph": "graphc.text",
    "parse_graph": "graphc.text",
    "verify": "graphc.verify",
    # pictures
    "draw": "viz",
    "draw_arena": "viz",
    "draw_roofline": "viz",
    "export": "viz",
    "page": "viz",
    "plots": "viz",
    "slides": "viz",
}
_ALIASES = {"f32": "float32", "f64": "float64", "i32": "int32", "i64": "int64", "u32": "uint32"}
_MODULES = [
    "checkpoint",
    "cli",
    "data",
    "driver",
    "errors",
    "init",
    "interpreter",
    "ir",
    "loops",
    "losses",
    "metrics",
    "nn",
    "ops",
    "optim",
    "parallelism",
    "profile",
    "provenance",
    "random",
    "rewrite",
    "scalar",
    "schedules",
    "targets",
    "text",
    "trace",
    "train",
    "types",
    "verify",
]

if TYPE_CHECKING:
    from graphc import data, errors, init, losses, metrics, nn, ops, optim, random, schedules
    from graphc.declaration import graph
    from graphc.driver import Program, compile
    from graphc.errors import GraphcError
    from graphc.init import seed
    from graphc.ir import Graph, Node
    from graphc.ops import *  # noqa: F403
    from graphc.parallelism import threads
    from graphc.profile import Profile
    from graphc.provenance import scope
    from graphc.targets.cpu.roofline import roofline
    from graphc.text import parse_graph, print_graph
    from graphc.train import Trainer
    from graphc.types import bool_, float32, float64, int32, int64, uint32
    from graphc.types import float32 as f32
    from graphc.types import float64 as f64
    from graphc.types import int32 as i32
    from graphc.types import int64 as i64
    from graphc.types import uint32 as u32
    from graphc.verify import verify
    from passes.differentiate import grad, hessian, hvp, jacobian, jvp, value_and_grad, vjp
    from viz import draw, draw_arena, draw_roofline, export, page, slides


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name == "__all__":  # a star import must not replace sum, compile and their like
        return [n for n in __dir__() if not n.startswith("__") and not hasattr(builtins, n)]
    if name.startswith("__"):
        raise AttributeError(name)
    if name in _ALIASES:
        value = getattr(importlib.import_module("graphc.types"), _ALIASES[name])
    elif name in _EXPORTS:
        value = getattr(importlib.import_module(_EXPORTS[name]), name)
    elif name in _MODULES:
        return importlib.import_module(f"graphc.{name}")
    else:
        ops = importlib.import_module("graphc.ops")
        if name not in ops.__all__:
            import difflib

            near = difflib.get_close_matches(name, __dir__(), 3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise AttributeError(f"graphc has no {name!r}{hint}")
        value = getattr(ops, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    ops = importlib.import_module("graphc.ops")
    return sorted({*_EXPORTS, *_ALIASES, *_MODULES, *ops.__all__, "__version__"})
