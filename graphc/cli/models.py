"""Find the model that a command names: ``file.py:name``, IR text, or one of the examples.

What enters: the user's words. What leaves: a symbolic value, a Graph or whatever the file's name holds. Invariant: a file is
run only because the user named it.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import graphc
from graphc import nn, ops
from graphc.errors import GraphcError, GraphError
from graphc.ir import Graph, Node
from graphc.text import parse_graph

if TYPE_CHECKING:
    from graphc.driver import Program
    from graphc.profile import Profile


def scalar() -> Node:
    """((a * b) + c) * tanh(a): micrograd's kind of expression."""
    a, b, c = (ops.input(name) for name in "abc")
    return (a * b + c) * ops.tanh(a)


def perceptron() -> Node:
    """One neuron with a sigmoid, and its squared error."""
    x, target = ops.input("x", (3,)), ops.input("target")
    w, b = ops.parameter("w", (3,), [0.2, -0.5, 0.1]), ops.parameter("b")
    return graphc.losses.mse(ops.sigmoid(ops.dot(x, w) + b), target)


def mlp() -> Node:
    """The demo's digit classifier, 784-128-10 with cross-entropy."""
    image, label = ops.input("image", ("batch", 784)), ops.input("label", ("batch",), "int32")
    net = nn.Sequential(nn.Dense(128, activation="relu"), nn.Dense(10), name="classifier")
    return graphc.losses.cross_entropy(net(image), label)


def softmax_cross_entropy() -> Node:
    """Logits to loss, where the gradient is p - y."""
    logits, label = ops.input("logits", (4, 3)), ops.input("label", (4,), "int32")
    return graphc.losses.cross_entropy(logits, label)


EXAMPLES: dict[str, Callable[[], Node]] = {
    "scalar": scalar, "perceptron": perceptron, "mlp": mlp, "softmax-cross-entropy": softmax_cross_entropy,
}  # fmt: skip


def load_model(words: str) -> Any:
    """The model that ``words`` name.

    Raises:
        GraphError: no such file, name or example; says which there are.
    """
    if words in EXAMPLES:
        return EXAMPLES[words]()
    path, _, name = words.partition(":")
    file = Path(path)
    if file.suffix == ".ir":
        return parse_graph(read_ir(file))
    if file.suffix != ".py":
        raise GraphError(
            f"no model is named {words!r}",
            help=f"give file.py:name, file.ir, or an example: {', '.join(EXAMPLES)}",
        )
    return _from_python(file, name)


def read_ir(file: Path) -> str:
    """The text of an IR file.

    Raises:
        GraphError: the file holds no text.
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise GraphError(f"{file} is no IR text: byte {error.start} is not UTF-8") from None


def _from_python(file: Path, name: str) -> Any:
    if not file.is_file():
        raise GraphError(f"{file}: no such file")
    spec = importlib.util.spec_from_file_location(f"graphc_model_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except GraphcError:
        raise
    except Exception as error:  # whatever the user's file raises is theirs to see, without our frames
        raise GraphError(
            f"{file} cannot be run{_line(error, file)}: {type(error).__name__}: {error}",
            help="run it with python, or add --debug, to see the whole traceback",
        ) from error
    finally:
        sys.path.pop(0)
    models = [k for k, v in vars(module).items() if isinstance(v, (Node, Graph)) and not k.startswith("_")]
    if not name:
        name = "loss" if "loss" in models else models[-1] if models else ""
    if not hasattr(module, name):
        known = ", ".join(models) or "no symbolic value at all"
        raise GraphError(f"{file} has no {name!r}", help=f"it has: {known}")
    return getattr(module, name)


def _line(error: Exception, file: Path) -> str:
    """`` (line 12)``: the last line of ``file`` that was running when ``error`` was raised."""
    if isinstance(error, SyntaxError):
        return f" (line {error.lineno})"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == file.name]
    return f" (line {lines[-1]})" if lines else ""


def as_graph(model: Any, name: str = "model") -> Graph:
    """A Graph from a value, a dict of values or a Graph."""
    from graphc.driver import as_graph as make

    return make(model, None, name)[0]


def profiled(model: Any, values: dict[str, Any] | None, backward: bool) -> tuple[Program, Profile]:
    """A model's program with its profile, compiled and interpreted; with ``backward`` the gradients are computed too.

    Raises:
        GraphError: open sizes without values that would tell them, or no single loss to go back from.
    """
    from graphc.driver import Program
    from graphc.driver import compile as compile_program

    if isinstance(model, Program):
        return model, model.profile(interpreted=True, **(values or {}))
    graph = as_graph(model)
    if graph.symbols and values is None:
        raise GraphError(
            f"the size of {', '.join(sorted(graph.symbols))} is open, so there is nothing to time",
            help="give arrays: --values inputs.npz",
        )
    outputs: dict[str, Node] = dict(graph.outputs)
    if backward:
        scalars = [n for k, n in outputs.items() if k == "loss" or len(outputs) == 1]
        if not scalars:
            raise GraphError(f"{graph.name} has no single loss to go back from", help="name the loss itself: model.py:loss")
        wrt = [n for n in graph.parameters if n.dtype.is_float] or [n for n in graph.inputs if n.dtype.is_float]
        parts = graphc.grad(scalars[0], wrt=wrt)
        outputs = {"loss": scalars[0], **{f"gradient of {n.name}": g for n, g in zip(wrt, parts, strict=True)}}
    program = compile_program(outputs, name=graph.name)
    return program, program.profile(interpreted=True, **(values or {}))


def load_values(text: str) -> dict[str, Any] | None:
    """Inputs from ``a=2,b=-3`` or an .npz file; None if there are none.

    Raises:
        GraphError: no number, or a file that cannot be read.

    >>> load_values("a=2,b=-3")
    {'a': 2.0, 'b': -3.0}
    """
    if not text:
        return None
    if text.endswith(".npz"):
        try:
            with np.load(text, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError) as error:
            raise GraphError(f"{text} cannot be read: {error}", help="write it with numpy.savez") from error
    found: dict[str, Any] = {}
    for word in text.split(","):
        name, _equals, value = word.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError as error:
            raise GraphError(f"{word!r} is no value", help="write it as a=2,b=-3, or give an .npz file") from error
    return found
