"""The driver: specialisation, state, threads, the shapes of arrays that users have, and errors that name their line."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import interpreter, losses, ops
from graphc.errors import CompileError, GraphError, IndexRangeError, InputError, NonFiniteError, TargetUnavailable
from graphc.ir import Graph
from graphc.loops.ir import LoopProgram

TARGETS = ("interpreter", "cpu")
HERE = Path(__file__).name


def compiled(outputs: Any, **options: Any) -> graphc.Program:
    return graphc.compile(outputs, **{"threads": 1, "cache": False, **options})


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# --- specialisation ------------------------------------------------------------------------------------------------


def test_a_symbolic_batch_respecialises_and_says_why() -> None:
    x = ops.input("x", ("batch", 3))
    program = compiled(ops.sum(x, axis=1))
    for n in (4, 7, 4, 1, 0):
        array = values(n, 3, seed=n)
        np.testing.assert_allclose(program(x=array), array.sum(1), rtol=1e-5)
    reasons = [s.reason for s in program.specialisations]
    assert reasons == ["first use", "batch is 7, was 4", "batch is 1, was 7", "batch is 0, was 1"]
    assert [s.sizes for s in program.specialisations] == [{"batch": n} for n in (4, 7, 1, 0)]


def test_before_its_sizes_are_known_a_program_says_what_it_waits_for() -> None:
    program = compiled(ops.sum(ops.input("x", ("batch", 3))))
    with pytest.raises(GraphError, match="batch"):
        program.trace  # noqa: B018
    with pytest.raises(GraphError, match="batch"):
        program.source("llvm")
    assert "batch" in program.source("graph")


@pytest.mark.parametrize("target", TARGETS)
def test_two_inputs_must_agree_on_a_size(target: str) -> None:
    program = compiled(ops.input("x", ("n",)) + ops.input("y", ("n",)), target=target)
    with pytest.raises(InputError, match="n is 3 in x but 4 in y"):
        program(x=values(3), y=values(4))
    assert program(x=values(4), y=values(4)).shape == (4,)


@pytest.mark.parametrize("target", TARGETS)
def test_empty_batches_zero_dimensions_and_constant_graphs(target: str) -> None:
    x = ops.input("x", ("n", 2))
    program = compiled({"sum": ops.sum(x), "mean": ops.mean(x), "rows": ops.tanh(x), "most": x @ ops.constant(np.eye(2, dtype="f"))},
                       target=target)  # fmt: skip
    empty = program(x=np.empty((0, 2), np.float32))
    assert empty["sum"] == 0
    assert np.isnan(empty["mean"])
    assert empty["rows"].shape == empty["most"].shape == (0, 2)
    assert empty["sum"].shape == ()
    assert compiled(ops.constant([1.0, 2.0]) * 3.0, target=target)().tolist() == [3.0, 6.0]
    assert compiled(ops.constant(2.5), target=target)().shape == ()


# --- state ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_variables_are_updated_in_place_and_shared(target: str) -> None:
    w = ops.parameter("w", (3,), [1.0, 2.0, 3.0])
    storage = w.attrs["variable"].value
    x = ops.input("x", (3,))
    step = compiled({"before": ops.sum(w)}, updates={w: w + x}, target=target)
    look = compiled(w * 1.0, target=target)
    total = 6.0
    for n in range(3):
        assert step(x=np.full(3, n, np.float32))["before"] == total
        total += 3 * n
        assert look().sum() == total
    assert storage.sum() == total


def test_a_graph_with_updates_alone() -> None:
    w = ops.parameter("w", (2, 2), np.eye(2, dtype=np.float32))
    v = ops.parameter("v", (2, 2), np.ones((2, 2), np.float32))
    program = compiled({}, updates={w: v + w, v: ops.transpose(w) * 2.0})
    assert program() == {}
    np.testing.assert_array_equal(w.attrs["variable"].value, [[2, 1], [1, 2]])
    np.testing.assert_array_equal(v.attrs["variable"].value, [[2, 0], [0, 2]])


@pytest.mark.parametrize("fuse", [True, False])
def test_an_old_value_that_is_read_after_the_new_one_is_not_overwritten(fuse: bool) -> None:
    w, x = ops.parameter("w", (4, 4), values(4, 4)), ops.input("x", (4, 4))
    old = w.attrs["variable"].value.copy()
    new = w + x
    program = compiled({"late": w * ops.sum(new @ new)}, updates={w: new}, fuse=fuse)
    late = program(x=np.ones((4, 4), np.float32))["late"]
    np.testing.assert_allclose(late, old * ((old + 1) @ (old + 1)).sum(), rtol=1e-4)
    np.testing.assert_array_equal(w.attrs["variable"].value, old + 1)


def test_a_value_set_from_outside_is_seen() -> None:
    w = ops.parameter("w", (2,), [1.0, 2.0])
    program = compiled(w + 1.0)
    program()
    w.attrs["variable"].value = np.float32([5.0, 6.0])
    assert program().tolist() == [6.0, 7.0]


def test_outputs_alias_nothing() -> None:
    x, w = ops.input("x", (4,)), ops.parameter("w", (4,), np.ones(4))
    y = x + 1.0
    program = compiled({"x": x, "y": y, "again": y, "view": ops.reshape(y, (2, 2)), "w": w, "c": ops.constant([1.0])})
    given = values(4)
    first, second = program(x=given), program(x=given)
    kept = [given, w.attrs["variable"].value, *first.values(), *second.values()]
    for n, one in enumerate(kept):
        assert not any(np.shares_memory(one, other) for other in kept[:n])
    first["c"][0] = 9
    assert program(x=given)["c"] == 1


# --- arrays as users have them -------------------------------------------------------------------------------------


def _unaligned(array: np.ndarray) -> np.ndarray:
    raw = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    raw[...] = array
    return raw


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "fortran": np.asfortranarray,
    "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "strided": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "transposed": lambda a: a.T.copy().T,
    "read-only": _read_only,
    "unaligned": _unaligned,
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "other byte order": lambda a: a.astype(">f4"),
    "subclass": lambda a: a.view(np.matrix),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_an_input_gives_the_same_result(layout: str) -> None:
    x = ops.input("x", (5, 7))
    w = ops.input("w", (7, 3))
    program = compiled({"y": ops.tanh(x) @ w, "s": ops.sum(x, axis=0)})
    given, weight = LAYOUTS[layout](values(5, 7)), values(7, 3, seed=1)
    plain = np.ascontiguousarray(given, np.float32)
    for _ in range(2):  # the second call is the one that knows its specialisation
        got = program(x=given, w=weight)
        np.testing.assert_allclose(got["y"], np.tanh(plain) @ weight, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got["s"], plain.sum(0), rtol=1e-5, atol=1e-6)
        assert type(got["y"]) is np.ndarray


def test_lists_and_numbers_are_taken() -> None:
    program = compiled(ops.input("x", (2,)) * ops.input("k", ()))
    assert program(x=[1, 2], k=3).tolist() == [3.0, 6.0]


# --- errors --------------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "shape": ({"x": values(2, 4), "t": np.zeros(2, np.int32)}, "axis 1 is 4, not 3"),
    "rank": ({"x": values(3), "t": np.zeros(2, np.int32)}, "it has 1 axes, not 2"),
    "dtype": ({"x": np.zeros((2, 3)), "t": np.zeros(2, np.int32)}, "float64"),
    "kind": ({"x": values(2, 3), "t": np.zeros(2, np.float32)}, "float32"),
    "missing": ({"x": values(2, 3)}, "misses input t"),
    "no array": ({"x": "text", "t": [0, 0]}, "x is"),
    "ragged": ({"x": [[1.0], [1.0, 2.0]], "t": [0, 0]}, "x is no array"),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_input_is_refused_naming_the_users_line(case: str, target: str) -> None:
    x, t = ops.input("x", ("n", 3)), ops.input("t", ("n",), "int32")
    program = compiled(losses.cross_entropy(x, t), target=target)
    right = {"x": values(2, 3), "t": np.zeros(2, np.int32)}
    arrays, message = WRONG[case]
    for _ in range(2):
        with pytest.raises(InputError, match=message) as caught:
            program(**arrays)
        assert HERE in str(caught.value)
        program(**right)


@pytest.mark.parametrize("target", TARGETS)
def test_an_unknown_input_is_refused_with_a_suggestion(target: str) -> None:
    program = compiled(ops.input("image", (2,)) * 2.0, target=target)
    with pytest.raises(InputError, match="did you mean image"):
        program(image=values(2), imagee=values(2))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("label", [10, -11, 2**31 - 1, -(2**31)])
def test_a_label_out_of_range_names_the_users_line_and_changes_nothing(label: int, target: str) -> None:
    x, t = ops.input("x", ("n", 10)), ops.input("t", ("n",), "int32")
    loss = losses.cross_entropy(x, t)  # the line that is blamed
    program = compiled(loss, target=target)
    labels = np.zeros(9, np.int32)
    labels[4] = label
    with pytest.raises(IndexRangeError) as caught:
        program(x=values(9, 10), t=labels)
    assert HERE in str(caught.value)
    assert "the line that is blamed" in str(caught.value)
    labels[4] = 9
    assert np.isfinite(program(x=values(9, 10), t=labels))


def test_strict_mode_names_the_birthplace() -> None:
    x = ops.input("x", (3,))
    y = ops.log(x)  # born here
    program = compiled(ops.sum(y * 2.0), strict=True)
    assert program(x=np.ones(3, np.float32)) == 0
    with pytest.raises(NonFiniteError, match="born here"):
        program(x=np.float32([1, -1, 2]))


def test_wrong_options_are_refused() -> None:
    x = ops.input("x", (3,))
    with pytest.raises(GraphError, match="unknown target"):
        compiled(x, target="tpu")
    with pytest.raises(GraphError, match="at least 1"):
        compiled(x, threads=0)
    with pytest.raises(GraphError, match="cannot compile"):
        compiled([x])
    with pytest.raises(GraphError, match="no parameter"):
        compiled(x, updates={x: x})
    with pytest.raises(GraphError, match="choose"):
        compiled(x * 2.0, check="sometimes")
    with pytest.raises(GraphError, match="no source level"):
        compiled(x * 2.0).source("wasm")
    with pytest.raises(CompileError, match="no loops"):
        compiled(x, target="interpreter").source("loops")
    with pytest.raises(TargetUnavailable, match="cpu target"):
        compiled(x, target="interpreter").profile()


# --- looking inside ------------------------------------------------------------------------------------------------


def test_every_level_has_a_text() -> None:
    x, w = ops.input("x", (8, 9)), ops.parameter("w", (9, 5), values(9, 5))
    program = compiled({"y": ops.softmax(x @ w, axis=1)}, updates={w: w * 0.5})
    assert "matmul" in program.source("graph")
    assert "softmax" not in program.source("simplified")
    assert "kernel" in program.source("loops")
    assert "define" in program.source("llvm")
    assert "graphc_entry" in program.source("asm")
    assert "__global__" in program.source("cuda")
    stages = [s.name for s in program.trace.stages]
    assert stages[0] == "declared"
    assert stages[-2:] == ["schedule", "machine code"]
    assert isinstance(program.loops, LoopProgram)


def test_a_profile_names_lines_and_leaves_variables_alone() -> None:
    x, w = ops.input("x", (64, 64)), ops.parameter("w", (64, 64), values(64, 64))
    program = compiled({"y": ops.sum(ops.tanh(x @ w), axis=0)}, updates={w: w * 0.5})
    before = w.attrs["variable"].value.copy()
    profile = program.profile(3, x=values(64, 64))
    assert len(profile.rows) == len(program.loops.launches)
    assert profile.seconds > 0
    assert HERE in profile.table()
    np.testing.assert_array_equal(w.attrs["variable"].value, before)


def test_observers_see_every_stage() -> None:
    seen: list[str] = []
    compiled(ops.input("x", (3,)) * 2.0, observers=[lambda stage: seen.append(stage.name)])
    assert seen[0] == "declared"
    assert "fuse" in seen
    assert "machine code" in seen


# --- threads, forks, processes -------------------------------------------------------------------------------------


def test_programs_run_and_specialise_in_several_threads() -> None:
    x, w = ops.input("x", ("n", 16)), ops.input("w", (16, 16))
    programs = [compiled(ops.tanh(x @ w) @ w, threads=threads) for threads in (1, 2)]
    weight, wrong = values(16, 16) / 4, []

    def work(seed: int) -> None:
        generator = np.random.default_rng(seed)
        for _ in range(40):
            array = generator.standard_normal((int(generator.integers(1, 6)) * 8, 16)).astype(np.float32)
            for program in programs:
                got = program(x=array, w=weight)
                if not np.allclose(got, np.tanh(array @ weight) @ weight, atol=1e-4):
                    wrong.append(seed)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not any(w.is_alive() for w in workers)
    assert not wrong
    assert all(len(p.specialisations) == 5 for p in programs)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_between_two_calls() -> None:
    source = """
import os, sys
import numpy as np
import graphc
from graphc import ops
x = ops.input("x", ("n", 256))
program = graphc.compile(ops.sum(ops.tanh(x @ ops.transpose(x))), threads=2, cache=False)
array = np.ones((256, 256), np.float32) / 16
want = program(x=array)
child = os.fork()
if not child:
    os._exit(0 if program(x=array) == want and program(x=array[:8]).shape == () else 1)
assert program(x=array) == want
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", source], timeout=120, cwd=Path(__file__).parents[1]).returncode == 0


def test_another_process_finds_the_object_code(tmp_path: Path) -> None:
    source = """
import numpy as np
import graphc
from graphc import ops
x = ops.input("x", (5, 6))
program = graphc.compile(ops.softmax(x @ ops.constant(np.eye(6, dtype=np.float32)), axis=1), threads=1)
print(program.specialisations[0].executable.cache, program(x=np.zeros((5, 6), np.float32)).sum())
"""
    environment = {**os.environ, "GRAPHC_CACHE_DIR": str(tmp_path)}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", source], env=environment, cwd=Path(__file__).parents[1], timeout=120, check=True,
            capture_output=True, text=True,
        ).stdout.strip()
        for _ in range(2)
    ]  # fmt: skip
    assert outputs[0].startswith("miss")
    assert outputs[1].startswith("hit")
    assert [o.split()[-1] for o in outputs] == [outputs[0].split()[-1]] * 2
    assert any(tmp_path.rglob("*"))


def test_the_interpreter_and_the_cpu_agree_through_a_graph() -> None:
    x = ops.input("x", ("n", 4))
    graph = Graph("g", {"y": ops.softmax(x, axis=1)})
    array = values(3, 4)
    np.testing.assert_allclose(compiled(graph)(x=array)["y"], interpreter.run(graph, {"x": array})["y"], rtol=1e-5)
