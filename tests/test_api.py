"""The public API: its names exist, load lazily, and any module can be the first one imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import graphc

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("graphc", "passes", "viz", "bench")

# A bare interpreter forks once a module: each is imported first in its process, and the tests stay quick.
IMPORT_EACH_FIRST = """
import importlib, json, os, sys, traceback
import numpy
failures = {}
for name in json.loads(sys.argv[1]):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException:
            os.write(writer, traceback.format_exc()[-2000:].encode())
        os._exit(0)
    os.close(writer)
    text = b"".join(iter(lambda: os.read(reader, 4096), b"")).decode()
    os.close(reader)
    os.waitpid(child, 0)
    if text:
        failures[name] = text
print(json.dumps(failures))
"""


def modules() -> list[str]:
    """Every module of the project, but the one that runs when it is imported."""
    found = []
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            if parts[-1] != "__main__":
                found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def run_python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_each_module_can_be_imported_first() -> None:
    names = modules()
    assert len(names) > 80
    assert json.loads(run_python(IMPORT_EACH_FIRST, json.dumps(names))) == {}


@pytest.mark.parametrize("heavy", ["llvmlite", "matplotlib", "networkx", "typer", "viz", "passes", "ziamath"])
def test_importing_graphc_is_light(heavy: str) -> None:
    loaded = run_python("import sys, graphc; print(*sorted(m for m in sys.modules if '.' not in m))").split()
    assert "graphc" in loaded
    assert heavy not in loaded


def test_every_listed_name_loads() -> None:
    names = [n for n in dir(graphc) if not n.startswith("_")]
    assert {"input", "parameter", "grad", "compile", "draw", "Trainer", "nn", "optim", "losses", "metrics"} <= set(
        names
    )
    for name in names:
        assert getattr(graphc, name) is not None, name


@pytest.mark.parametrize(
    "name",
    [
        "input", "parameter", "grad", "value_and_grad", "vjp", "jvp", "jacobian", "hessian", "hvp", "compile", "draw",
        "graph", "Trainer", "f32", "losses.cross_entropy", "metrics.accuracy", "nn.Sequential", "nn.Dense", "nn.Dropout",
        "optim.SGD", "optim.Adagrad", "optim.Adadelta", "optim.RMSProp", "optim.Adam", "optim.AdamW", "Graph", "Node",
    ],
)  # fmt: skip
def test_the_documented_names_exist(name: str) -> None:
    found: object = graphc
    for part in name.split("."):
        found = getattr(found, part)
    assert callable(found) or found is graphc.float32


def test_an_unknown_name_is_an_attribute_error_with_a_suggestion() -> None:
    with pytest.raises(AttributeError, match="softmax"):
        _ = graphc.sofmax


def test_a_graph_declared_from_a_function_equals_the_values() -> None:
    import numpy as np

    @graphc.graph
    def f(x: graphc.f32["batch", 4]):  # type: ignore  # noqa: F821, UP037
        return graphc.sum(graphc.tanh(x), axis=1)

    value = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    assert isinstance(f, graphc.Graph)
    got = graphc.compile(f)(x=value)
    (result,) = got.values() if isinstance(got, dict) else (got,)
    np.testing.assert_allclose(np.asarray(result), np.tanh(value).sum(axis=1), rtol=1e-5, atol=1e-6)


def test_a_star_import_keeps_python_s_own_names() -> None:
    code = "from graphc import *; print(sum([1, 2]), grad.__module__, 'tanh' in globals(), 'compile' in globals())"
    assert run_python(code).split() == ["3", "passes.differentiate", "True", "False"]


def test_a_dtype_makes_types_and_cannot_be_iterated_for_ever() -> None:
    assert str(graphc.float32["batch", 3]) == "f32[batch,3]"
    with pytest.raises(TypeError, match="not iterable"):
        list(graphc.float32)  # type: ignore[call-overload]
