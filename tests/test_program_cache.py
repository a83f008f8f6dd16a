"""The cache of whole programs: what is found again, what is not and why, and that nothing of the user's is lost by it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
import graphc.compilation
from graphc import ops, random
from graphc.errors import CompileError, IndexRangeError
from graphc.ir import REGISTRY, Graph, Node
from graphc.ops.declare import elementwise
from graphc.structure import structure
from graphc.targets.cpu import plan, program_cache
from graphc.trace import Stage

HERE = Path(__file__).name
ONES = np.ones(4, np.float32)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def net(name: str = "w", value: float = 2.0, factor: float = 3.0, out: str = "y", given: str = "x") -> dict[str, Node]:
    x, w = ops.input(given, (4,)), ops.parameter(name, (4,), np.full(4, value, np.float32))
    return {out: ops.tanh(x * w) + ops.constant(np.array([1, 2, 3, 4], np.float32)) * factor}


def expected(value: float = 2.0, factor: float = 3.0) -> np.ndarray:
    return np.tanh(np.full(4, value, np.float32)) + np.array([1, 2, 3, 4], np.float32) * np.float32(factor)


def compiled(outputs: Any, **options: Any) -> graphc.Program:
    return graphc.compile(outputs, **{"threads": 1, **options})


def cache_of(program: graphc.Program) -> str:
    return program.specialisations[-1].cache


# --- what is found -------------------------------------------------------------------------------------------------


def test_the_same_declaration_is_found_and_runs_without_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = compiled(net())
    assert cache_of(first) == "miss: no entry"
    monkeypatch.setattr(graphc.compilation, "build_loops", lambda *_: pytest.fail("a pass has run"))
    second = compiled(net())
    assert cache_of(second) == "hit"
    out = np.empty(4, np.float32)
    bound = second.bind("x", out={"y": out})
    bound(ONES)
    for y in (first(x=ONES)["y"], second(x=ONES)["y"], out):
        np.testing.assert_allclose(y, expected(), rtol=1e-6)


def test_the_values_of_variables_are_those_of_the_present_graph() -> None:
    compiled(net(value=2.0))
    other = compiled(net(value=0.5))
    assert cache_of(other) == "hit"
    np.testing.assert_allclose(other(x=ONES)["y"], expected(value=0.5), rtol=1e-6)


def test_updates_write_the_present_variables() -> None:
    made = []
    for _ in range(2):
        w, v, x = ops.parameter("w", (4,), ONES), ops.parameter("v", (4,), 3 * ONES), ops.input("x", (4,))
        program = compiled({"sum": ops.sum(w * v)}, updates={w: w + x, v: w})
        made.append((program, w.attrs["variable"], v.attrs["variable"]))
    (_, old, _), (program, w_state, v_state) = made
    assert cache_of(program) == "hit"
    assert program(x=ONES)["sum"] == 12
    assert (w_state.value.tolist(), v_state.value.tolist(), old.value.tolist()) == ([2] * 4, [1] * 4, [1] * 4)


def test_a_seed_is_a_constant_and_a_seed_that_is_an_input_is_not() -> None:
    first, second, again = (compiled({"r": random.uniform(random.key(s), (8,))}) for s in (1, 2, 1))
    assert [cache_of(p) for p in (second, again)] == ["miss: no entry", "hit"]
    assert first()["r"].tolist() == again()["r"].tolist() != second()["r"].tolist()
    fed = [compiled({"r": random.uniform(random.key(ops.input("seed", (), "int32")), (8,))}) for _ in range(2)]
    assert cache_of(fed[1]) == "hit"
    assert fed[1](seed=np.int32(1))["r"].tolist() == fed[0](seed=np.int32(1))["r"].tolist() == first()["r"].tolist()


def test_symbolic_sizes_are_found_one_by_one() -> None:
    def program() -> graphc.Program:
        return compiled(ops.sum(ops.input("x", ("n", 3)), axis=1))

    first, second = program(), program()
    first(x=np.ones((5, 3), np.float32))
    assert second(x=np.ones((5, 3), np.float32)).tolist() == [3] * 5
    assert cache_of(second) == "hit"
    assert second(x=np.ones((2, 3), np.float32)).tolist() == [3] * 2
    assert [s.cache for s in second.specialisations] == ["hit", "miss: no entry"]
    assert second.specialisations[1].reason == "n is 2, was 5"


def test_loops_are_found() -> None:
    def program() -> graphc.Program:
        carry, ys = ops.scan(lambda c, x: (c + x, c * x), ops.input("c", (4,)), ops.input("x", (6, 4)))
        return compiled({"carry": carry, "ys": ys})

    x = np.arange(24, dtype=np.float32).reshape(6, 4)
    first, second = program(), program()
    assert cache_of(second) == "hit"
    for name, array in first(c=ONES, x=x).items():
        np.testing.assert_array_equal(array, second(c=ONES, x=x)[name])


# --- what is not found, and why ------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"name": "v"}, {"factor": 4.0}, {"out": "z"}, {"given": "a"}], ids=str)
def test_what_differs_is_compiled(change: dict[str, Any]) -> None:
    compiled(net())
    program = compiled(net(**change))
    assert cache_of(program) == "miss: no entry"
    result = program(**{change.get("given", "x"): ONES})
    assert list(result) == [change.get("out", "y")]
    np.testing.assert_allclose(next(iter(result.values())), expected(factor=change.get("factor", 3.0)), rtol=1e-6)


@pytest.mark.parametrize("options", [{"threads": 2}, {"fuse": False}, {"vector_bits": 128}], ids=str)
def test_other_options_are_other_programs(options: dict[str, Any]) -> None:
    compiled(net())
    assert cache_of(compiled(net(), **options)) == "miss: no entry"
    assert cache_of(compiled(net(), **options)) == "hit"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"cache": False}, "disabled"), ({"strict": True}, "strict"),
        ({"check": "every-pass"}, "its passes are observed"), ({"target": "interpreter"}, "the interpreter target"),
    ],
    ids=str,
)  # fmt: skip
def test_what_must_run_its_passes_says_so(options: dict[str, Any], why: str) -> None:
    for _ in range(2):
        program = compiled(net(), **options)
        assert cache_of(program).startswith(f"miss: {why}")
        np.testing.assert_allclose(program(x=ONES)["y"], expected(), rtol=1e-6)


def test_a_frozen_program_is_kept_with_its_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_of(compiled(net(), freeze=True)) == "miss: no entry"
    assert cache_of(compiled(net())) == "miss: no entry"  # not the same program
    assert cache_of(compiled(net(value=2.5), freeze=True)) == "miss: no entry"  # nor are other values
    for value in (2.0, 2.5):
        with monkeypatch.context() as patch:
            patch.setattr(graphc.compilation, "build_loops", lambda *_: pytest.fail("a pass has run"))
            program = compiled(net(value=value), freeze=True)
        assert cache_of(program) == "hit"
        np.testing.assert_allclose(program(x=ONES)["y"], expected(value), rtol=1e-6)
        assert not program.loops.role("parameter")  # derived now, and found to be those of the code that runs


def test_values_that_are_frozen_anew_are_not_kept(folder: Path) -> None:
    outputs = net()
    (weight,) = graphc.Graph("g", outputs).parameters
    compiled(outputs, freeze=True)
    program = compiled(outputs, freeze=True)
    assert cache_of(program) == "hit"
    restored, files = program.specialisations[-1], len(list(folder.rglob("*")))
    weight.attrs["variable"].value = np.full(4, 0.5, np.float32)
    np.testing.assert_allclose(program(x=ONES)["y"], expected(2.0), rtol=1e-6)
    program.refreeze()
    assert cache_of(program).startswith("miss: frozen anew")
    np.testing.assert_allclose(program(x=ONES)["y"], expected(0.5), rtol=1e-6)
    assert len(list(folder.rglob("*"))) == files
    assert restored.loops is not None  # derived from the values that it was made with


def test_observers_see_every_stage_though_the_program_is_known() -> None:
    compiled(net())
    seen: list[Stage] = []
    program = compiled(net(), observers=[seen.append])
    assert cache_of(program) == "miss: its passes are observed"
    assert [s.name for s in seen] == [s.name for s in program.trace.stages]


def test_functions_and_ops_of_the_user_are_never_taken_for_others() -> None:
    x = ops.input("x", (4,))
    doubled = graphc.custom(lambda a: a + a)
    assert "attribute" in cache_of(compiled({"y": doubled(x)}))
    own = elementwise("test_own_neg", primitive="neg", partials=lambda y, x: (None,))
    try:
        assert structure(Graph("g", {"y": own(x)})).trouble == "test_own_neg is no op of graphc's own"
        assert cache_of(compiled({"y": own(x)})) == "miss: test_own_neg is no op of graphc's own"
    finally:
        del REGISTRY["test_own_neg"]


# --- the key -------------------------------------------------------------------------------------------------------


def key(*outputs: Node) -> str:
    return structure(Graph("g", {f"y{n}": node for n, node in enumerate(outputs)})).digest


def test_the_key_tells_apart_what_machine_code_tells_apart() -> None:
    x, y = ops.input("x", (2, 2)), ops.input("y", (2, 2))
    shared, w, v = (ops.parameter("w", (2, 2), 0.0) for _ in range(3))
    v = ops.parameter("v", (2, 2), 0.0)
    graphs = [
        (x - y,), (y - x,), (x + y,), (x @ y,), (x - y, x + y), (x + y, x - y), (x + 0.0,), (x + -0.0,), (x + np.nan,),
        (ops.sum(x),), (ops.sum(x, axis=0),), (ops.sum(x, axis=1),), (shared + shared,), (w + v,), (x * 2,), (x * 2.5,),
        (ops.input("x", (2, 3)) * 2,), (ops.input("x", (2, 2), "float64") * 2,), (ops.input("x", ("n", 2)) * 2,),
        (ops.constant([1.0, 2.0]),), (ops.constant([1.0, 3.0]),), (ops.constant([[1.0, 2.0]]),),
    ]  # fmt: skip
    assert len({key(*outputs) for outputs in graphs}) == len(graphs)


def test_the_key_knows_the_order_in_which_ties_are_settled() -> None:
    def build(first: str) -> str:
        x = ops.input("x", (4,))
        sides = {name: getattr(ops, name)(x) for name in ((first, "cos") if first == "sin" else (first, "sin"))}
        return key(sides["sin"] + sides["cos"])

    assert build("sin") == build("sin") != build("cos")


def test_lines_scopes_and_the_graphs_name_are_not_in_the_key() -> None:
    def build(scope: str) -> Node:
        with graphc.scope(scope):
            return ops.input("x", (4,)) * 2.0

    a = build("a")
    b = build("b")
    assert structure(Graph("f", {"y": a})) == structure(Graph("g", {"y": b}))


# --- what leads back to the user -----------------------------------------------------------------------------------


def looked_up() -> Node:
    return ops.take(ops.input("table", (5, 2)), ops.input("index", (3,), "int32"), axis=0)


def test_the_stages_of_a_found_program_are_those_of_a_compiled_one() -> None:
    first, second = compiled(net()), compiled(net())
    assert cache_of(second) == "hit"
    assert [s.name for s in second.trace.stages] == [s.name for s in first.trace.stages]
    for stage in ("graph", "simplified", "loops", "memory", "llvm", "asm"):
        assert first.source(stage).splitlines()[1:] == second.source(stage).splitlines()[1:]
    assert "program miss: no entry" in first.trace.stage("machine code").text()
    assert "program hit" in second.trace.stage("machine code").text()


def test_errors_and_profiles_lead_to_the_present_line() -> None:
    compiled(looked_up())
    y = ops.take(ops.input("table", (5, 2)), ops.input("index", (3,), "int32"), axis=0); line = sys._getframe().f_lineno  # noqa: E702
    program = compiled(y)
    assert cache_of(program) == "hit"
    table = np.zeros((5, 2), np.float32)
    with pytest.raises(IndexRangeError, match=f"{HERE}:{line}"):
        program(table=table, index=np.array([0, 9, 1], np.int32))
    assert program(table=table, index=np.array([0, 4, 1], np.int32)).shape == (3, 2)
    rows = program.profile(repeats=1).rows
    assert f"{HERE}:{line}" in {source for row in rows for source in row.sources}


def test_stages_that_are_not_those_of_the_code_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled(net())
    program = compiled(net())
    assert cache_of(program) == "hit"
    build = graphc.compilation.build_loops
    unfused = lambda graph, options, trace: build(graph, replace(options, fuse=False), trace)  # noqa: E731
    monkeypatch.setattr(graphc.compilation, "build_loops", unfused)
    with pytest.raises(CompileError, match="another program now"):
        program.source("loops")
    np.testing.assert_allclose(program(x=ONES)["y"], expected(), rtol=1e-6)


# --- the files -----------------------------------------------------------------------------------------------------


def entry_of(folder: Path) -> Path:
    """The file of the one program in the cache."""
    (path,) = [p for p in folder.iterdir() if b'"slots":' in p.read_bytes()]
    return path


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "corrupt: checksum"),
        (lambda data: data[:-9], "corrupt: checksum"),
        (lambda data: data[:40], "corrupt: not a file of this format"),
        (lambda data: b"", "corrupt: not a file of this format"),
        (lambda data: b"\x7fELF" + data, "corrupt: not a file of this format"),
    ],
    ids=["a flipped bit", "cut", "cut short", "empty", "another format"],
)
def test_a_damaged_entry_is_a_miss_and_is_mended(folder: Path, damage: Callable[[bytes], bytes], why: str) -> None:
    compiled(net())
    path = entry_of(folder)
    path.write_bytes(damage(path.read_bytes()))
    program = compiled(net())
    assert cache_of(program) == f"miss: {why}"
    np.testing.assert_allclose(program(x=ONES)["y"], expected(), rtol=1e-6)
    assert cache_of(compiled(net())) == "hit"


def test_the_entry_of_another_program_is_a_miss(folder: Path) -> None:
    compiled(net())
    path = entry_of(folder)
    data = path.read_bytes()
    path.unlink()
    compiled(net(factor=7.0))
    entry_of(folder).write_bytes(data)
    program = compiled(net(factor=7.0))
    assert cache_of(program) == "miss: corrupt: the entry of another key"
    np.testing.assert_allclose(program(x=ONES)["y"], expected(factor=7.0), rtol=1e-6)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owners here")
def test_an_entry_that_others_may_write_is_a_miss(folder: Path) -> None:
    compiled(net())
    entry_of(folder).chmod(0o666)
    assert cache_of(compiled(net())) == "miss: foreign: other users may write it"


def test_another_version_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled(net())
    monkeypatch.setattr(program_cache, "source_fingerprint", lambda: "edited")
    assert cache_of(compiled(net())) == "miss: no entry"
    monkeypatch.setattr(program_cache, "llvm_version", lambda: "LLVM 99")
    assert cache_of(compiled(net())) == "miss: no entry"


def test_an_entry_without_its_machine_code_is_a_miss(folder: Path) -> None:
    compiled(net())
    kept = entry_of(folder)
    for path in folder.iterdir():
        if path != kept:
            path.unlink()
    program = compiled(net())
    assert cache_of(program) == "miss: its machine code: no entry"
    np.testing.assert_allclose(program(x=ONES)["y"], expected(), rtol=1e-6)


def test_large_constants_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_cache, "LARGEST", 8)
    program = compiled(net())
    assert cache_of(program) == "miss: no entry; not kept: its constants are 0 MB"
    assert cache_of(compiled(net())).startswith("miss")


def test_a_plan_refuses_bytes_that_are_none() -> None:
    for data in (b"", b"\0" * 8, b"\x05" + b"\0" * 7 + b"{}", os.urandom(64), (2).to_bytes(8, "little") + b"{}"):
        with pytest.raises(ValueError, match="not a plan"):
            plan.Plan.read(data, ())


CHILD = """
import numpy as np, graphc
from graphc import ops
x = ops.input("x", (5, 6)); w = ops.parameter("w", (6, 3), np.ones((6, 3), np.float32))
program = graphc.compile({"y": ops.softmax(x @ w, axis=1)}, updates={w: w * 2.0}, threads=1)
print(program.specialisations[0].cache, "|", program(x=np.ones((5, 6), np.float32))["y"].sum(), w.attrs["variable"].value.sum())
"""


def test_processes_share_programs_whatever_the_order_of_their_hashes(folder: Path) -> None:
    def start(seed: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        root = Path(__file__).parents[1]
        return subprocess.Popen([sys.executable, "-c", CHILD], env=environment, cwd=root, stdout=subprocess.PIPE, text=True)

    both = [start("1"), start("2")]  # at once, on an empty cache
    answers = [p.communicate(timeout=120)[0].strip() for p in both]
    answers.append(start("3").communicate(timeout=120)[0].strip())
    assert [a.split("|")[1] for a in answers] == [" 5.0 36.0"] * 3
    assert answers[2].startswith("hit")
    assert not list(folder.glob("*.tmp"))
