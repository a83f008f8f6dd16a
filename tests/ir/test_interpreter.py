"""The interpreter: values, updates, input checks, strict mode, specialisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphc import ops
from graphc.errors import GraphcError, GraphError, IndexRangeError, InputError, NonFiniteError, VerifyError
from graphc.interpreter import check_inputs, evaluate, random_inputs, run, run_with_updates
from graphc.ir import REGISTRY, Graph, Node
from graphc.specialise import specialise
from graphc.types import dim


def test_outputs_and_updates_without_side_effects() -> None:
    x, w = ops.input("x", ("n",)), ops.parameter("w", (), 3.0)
    state = w.attrs["variable"]
    outputs, updates = run_with_updates(Graph("g", {"y": x * w, "w": w}, {w: w + 1.0}), {"x": [1, 2]})
    np.testing.assert_array_equal(outputs["y"], np.float32([3, 6]))
    assert updates[state] == 4 and state.value == 3
    outputs["w"][...] = 9  # a result is the caller's own memory
    assert state.value == 3


def test_results_never_alias_inputs_or_constants() -> None:
    x, c = ops.input("x", (2,)), ops.constant([1.0, 2.0])
    given = np.zeros(2, np.float32)
    found = run(Graph("g", {"x": x, "c": c, "b": ops.broadcast_to(c, (3, 2))}), {"x": given})
    for value in found.values():
        value += 1
        assert value.flags.c_contiguous
    assert not given.any() and c.attrs["value"].tolist() == [1, 2]


def test_keep_holds_every_value_of_the_callers_nodes() -> None:
    x = ops.input("x", ("n",))
    y = ops.exp(x)
    keep: dict[Node, np.ndarray] = {}
    run(Graph("g", {"z": ops.sum(y)}), {"x": [0.0, 0.0]}, keep=keep)
    np.testing.assert_array_equal(keep[y], np.float32([1, 1]))


def test_values_are_freed_after_their_last_use() -> None:
    y = ops.input("x", (1_000_000,))
    for _ in range(100):  # 400 MB if every value were kept
        y = ops.neg(y)
    import tracemalloc

    given = np.ones(1_000_000, np.float32)
    tracemalloc.start()
    run(Graph("g", {"y": y}), {"x": given})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_empty_batch() -> None:
    x = ops.input("x", ("n", 3))
    assert run(Graph("g", {"y": ops.exp(x)}), {"x": np.zeros((0, 3), np.float32)})["y"].shape == (0, 3)


def test_deep_and_shared_graphs() -> None:
    y = ops.input("x", ())
    for _ in range(30_000):
        y = ops.neg(y)
    assert evaluate(y, {"x": 2.0}) == 2.0
    one = ops.input("one", (), "float64")
    a, b = one, one
    for _ in range(200):
        a, b = b, a + b
    expected, other = 1, 1
    for _ in range(200):
        expected, other = other, expected + other
    np.testing.assert_allclose(evaluate(b, {"one": np.float64(1)}), float(other), rtol=1e-12)


# --- inputs ---


def model() -> Graph:
    image, label = ops.input("image", ("batch", 4)), ops.input("label", ("batch",), "int32")
    return Graph("model", {"y": ops.sum(image, axis=1) + ops.cast(label, "float32")})


def f32(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def i32(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.int32)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"image": f32(2, 4)}, "graph model misses input label"),
    "missing both": ({}, "graph model misses inputs image, label"),
    "extra": ({"image": f32(2, 4), "label": i32(2), "imagee": 0}, "has no input 'imagee'"),
    "near": ({"image": f32(2, 4), "label": i32(2), "lable": 0}, "did you mean label?"),
    "float64": ({"image": np.ones((2, 4)), "label": i32(2)}, "input image is float64, declared as f32[batch,4]"),
    "help": ({"image": np.ones((2, 4)), "label": i32(2)}, "help: pass image.astype('float32'), or declare it with"),
    "int64": ({"image": f32(2, 4), "label": np.zeros(2, np.int64)}, "input label is int64, declared as i32[batch]"),
    "floats for ints": ({"image": f32(2, 4), "label": [0.5, 1.0]}, "input label is float64, declared as i32[batch]"),
    "too large": ({"image": f32(2, 4), "label": [0, 2**40]}, "too large for i32"),
    "rank": ({"image": f32(4), "label": i32(2)}, "it has 1 axes, not 2"),
    "static size": ({"image": f32(2, 5), "label": i32(2)}, "axis 1 is 5, not 4"),
    "conflict": ({"image": f32(32, 4), "label": i32(31)}, "batch is 32 in image but 31 in label"),
    "text": ({"image": "cat", "label": i32(2)}, "declared as f32[batch,4]"),
    "ragged": ({"image": [[1.0], [1.0, 2.0]], "label": i32(2)}, "input image is no array"),
    "none": ({"image": None, "label": i32(2)}, "input image is object"),
}


@pytest.mark.parametrize("inputs, message", WRONG.values(), ids=WRONG.keys())
def test_wrong_inputs(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        check_inputs(model(), inputs)
    assert message in str(error.value)


def test_errors_name_the_users_line() -> None:
    with pytest.raises(InputError, match=r"test_interpreter\.py:\d+"):
        check_inputs(model(), {"image": f32(2, 4)})


def test_lists_numbers_and_foreign_arrays_are_taken() -> None:
    arrays, sizes = check_inputs(model(), {"image": [[1, 2, 3, 4]], "label": [7]})
    assert sizes == {"batch": 1} and arrays["image"].dtype == np.float32 and arrays["label"].dtype == np.int32

    class Tensor:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    arrays, _ = check_inputs(model(), {"image": Tensor(f32(2, 4)), "label": i32(2)})
    assert arrays["image"].shape == (2, 4)


def test_polynomial_sizes_are_solved_and_checked() -> None:
    n, m = dim("n"), dim("m")
    graph = Graph("g", {"y": ops.input("x", (n * 2 + 1, n * m)), "z": ops.input("z", (m,))})
    assert check_inputs(graph, {"x": f32(7, 15), "z": f32(5)})[1] == {"n": 3, "m": 5}
    with pytest.raises(InputError, match=r"axis 0 is 6, which is not 2\*n\+1 for any n"):
        check_inputs(graph, {"x": f32(6, 15), "z": f32(5)})
    with pytest.raises(InputError, match=r"axis 1 is 16, but m\*n is 15"):
        check_inputs(graph, {"x": f32(7, 16), "z": f32(5)})
    with pytest.raises(InputError, match="m cannot be found"):
        check_inputs(Graph("g", {"y": graph.outputs["y"]}), {"x": f32(7, 15)})


def test_random_inputs_are_valid_and_repeat() -> None:
    graph = model()
    first, again = random_inputs(graph), random_inputs(graph)
    assert all(np.array_equal(first[k], again[k]) for k in first)
    run(graph, first)
    assert random_inputs(graph, sizes={"batch": 9})["label"].shape == (9,)


# --- strict mode and run-time errors ---


def strict_log() -> Graph:
    x = ops.input("x", (3,))
    y = ops.log(x)
    return Graph("g", {"y": ops.exp(y)})


def test_strict_mode_names_the_node_and_the_line() -> None:
    with pytest.raises(NonFiniteError) as error:
        run(strict_log(), {"x": [-1.0, 0.0, 1.0]}, strict=True)
    text = str(error.value)
    assert "y = ops.log(x)" in text and "^ log gave 1 NaN and 1 infinite of 3 elements" in text
    assert "x: f32[3] in [-1, 1]" in text
    run(strict_log(), {"x": [-1.0, 0.0, 1.0]})  # and is off unless asked for


def test_strict_mode_accepts_infinite_constants_as_masks() -> None:
    x = ops.input("x", (3,))
    y = ops.max(ops.where(x > 0, x, -np.inf))
    assert run(Graph("g", {"y": y}), {"x": [1.0, -2.0, 3.0]}, strict=True)["y"] == 3


def test_strict_mode_finds_bad_inputs() -> None:
    with pytest.raises(NonFiniteError, match="input x gave 1 NaN of 3"):
        run(strict_log(), {"x": [np.nan, 1.0, 1.0]}, strict=True)


@pytest.mark.parametrize("index", [3, -4])
def test_an_index_out_of_range_names_the_line(index: int) -> None:
    rows, at = ops.input("rows", (3, 2)), ops.input("at", ("n",), "int32")
    graph = Graph("g", {"y": ops.take(rows, at, axis=0)})
    with pytest.raises(IndexRangeError) as error:
        run(graph, {"rows": f32(3, 2), "at": [0, index]})
    assert "test_interpreter.py" in str(error.value) and str(index) in str(error.value)
    assert run(graph, {"rows": f32(3, 2), "at": [-1, 2]})["y"].shape == (2, 2)


def test_a_reference_that_breaks_its_type_rule_is_named() -> None:
    from dataclasses import replace

    x = ops.input("x", (3,))
    broken = replace(REGISTRY["exp"], reference=lambda a: np.exp(a.astype(np.float64)))
    with pytest.raises(VerifyError, match=r"the reference of exp gave float64\[3\] for f32\[3\]"):
        evaluate(Node(broken, (x,), {}, x.type), {"x": f32(3)})


# --- specialisation ---


def test_specialise_substitutes_types_attributes_and_sizes() -> None:
    x = ops.input("x", ("n", 2))
    y = ops.mean(x * 2.0, axis=0) if hasattr(ops, "mean") else ops.sum(x * 2.0, axis=0)
    special = specialise(Graph("g", {"y": y}), {"n": 4})
    assert all(n.type.is_static for n in special.nodes) and not special.symbols
    assert not any(n.op.name == "size" for n in special.nodes)
    data = {"x": np.arange(8, dtype=np.float32).reshape(4, 2)}
    np.testing.assert_array_equal(run(special, data)["y"], evaluate(y, data))


def test_specialise_keeps_what_it_need_not_change() -> None:
    graph = Graph("g", {"y": ops.exp(ops.input("x", (3,)))})
    assert specialise(graph, {"n": 4}) is graph
    part = specialise(Graph("g", {"y": ops.input("x", ("n", "m"))}), {"n": 4})
    assert str(part.outputs["y"].type) == "f32[4,m]"
    with pytest.raises(GraphError, match="size n cannot be negative"):
        specialise(graph, {"n": -1})


def test_every_user_error_is_a_graphc_error() -> None:
    makers: list[Callable[[], object]] = [lambda: run(model(), {}), lambda: evaluate(ops.input("x", (2,)), {"x": f32(3)})]
    for maker in makers:
        with pytest.raises(GraphcError):
            maker()
