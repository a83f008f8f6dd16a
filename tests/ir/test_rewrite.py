"""Rules, passes and pipelines: matching, fixpoint, provenance, the record, and who is blamed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphc import ops, provenance
from graphc.errors import GraphError, PassError
from graphc.interpreter import evaluate, run
from graphc.ir import REGISTRY, Graph, Node
from graphc.rewrite import Context, Pass, Pipeline, RewritePass, Stage, Trace, rule
from graphc.text import print_graph
from graphc.types import TensorType, float32


@rule("exact")
def neg_neg(x: Node) -> tuple[Node, Node]:
    return ops.neg(ops.neg(x)), x


@rule("real")
def times_zero(x: Node) -> tuple[Node, float]:
    return ops.mul(x, 0), 0


@rule("exact")
def times_one(x: Node) -> tuple[Node, Node]:
    return ops.mul(x, 1), x


@rule("exact")
def minus_negative(a: Node, b: Node) -> tuple[Node, Node]:
    return ops.sub(a, ops.neg(b)), ops.add(a, b)


@rule("real")
def self_difference(x: Node) -> tuple[Node, float]:
    return ops.sub(x, x), 0


@rule("real")
def pythagoras(x: Node) -> tuple[Node, float]:
    s, c = ops.sin(x), ops.cos(x)
    return ops.add(ops.mul(s, s), ops.mul(c, c)), 1


@rule("real")
def factor(a: Node, b: Node, x: Node) -> tuple[Node, Node]:
    return ops.add(ops.mul(a, x), ops.mul(b, x)), ops.mul(ops.add(a, b), x)


ALL = (neg_neg, times_zero, times_one, minus_negative, self_difference, pythagoras, factor)


def simplify(*rules: object) -> RewritePass:
    return RewritePass("simplify", rules or ALL)  # type: ignore[arg-type]


def vector(name: str = "x", dtype: str = "float32") -> Node:
    return ops.input(name, (3,), dtype)


def rewritten(y: Node, *rules: object) -> Node:
    graph = Graph("g", {"y": y})
    trace = Trace()
    return Pipeline((simplify(*rules),)).run(graph, check="every-pass", trace=trace).outputs["y"]


def test_rules_print_and_typeset_themselves() -> None:
    assert str(neg_neg) == "neg(neg(x)) -> x [exact]"
    assert str(times_zero) == "mul(x, 0) -> 0 [real]"
    assert str(factor) == "add(mul(a, x), mul(b, x)) -> mul(add(a, b), x) [real]"
    assert neg_neg.latex() == r"--x \to x"
    assert r"\to" in factor.latex()
    with pytest.raises(GraphError, match="'exact' or 'real'"):
        rule("roughly")  # type: ignore[arg-type]


def test_rewrites_to_a_fixpoint_in_one_sweep() -> None:
    x = y = vector()
    for _ in range(10):
        y = ops.neg(y)
    assert rewritten(y) is x
    assert rewritten(ops.neg(y)).op.name == "neg"


def test_nodes_that_replacements_bring_in_are_rewritten_as_well() -> None:
    # factor gives mul(add(a, b), x) whose add is not there before; with a = sin², b = cos² it becomes 1*x, then x
    x, t = vector(), vector("t")
    s, c = ops.sin(t), ops.cos(t)
    assert rewritten(s * s * x + c * c * x) is x


def test_numbers_match_through_broadcasts_and_become_broadcasts() -> None:
    x = vector()
    made = rewritten(ops.mul(x, 0.0))
    assert made.type == x.type and made.op.name == "broadcast"
    assert rewritten(ops.mul(0.0, x)).op.name == "broadcast"  # commutative
    assert rewritten(ops.mul(x, ops.constant(1.0))) is x
    integers = vector("i", "int32")
    assert rewritten(integers * 0).type == integers.type


def test_minus_zero_is_not_zero_and_nan_is_itself() -> None:
    @rule("exact")
    def plus_negative_zero(x: Node) -> tuple[Node, Node]:
        return ops.add(x, -0.0), x

    @rule("exact")
    def plus_nan(x: Node) -> tuple[Node, float]:
        return ops.add(x, math.nan), math.nan

    x = vector()
    rules = (plus_negative_zero, plus_nan)
    assert rewritten(x + (-0.0), *rules) is x
    assert rewritten(x + 0.0, *rules) is not x
    assert np.isnan(evaluate(rewritten(x + math.nan, *rules), {})).all()


def test_pattern_numbers_are_cast_to_the_matched_dtype() -> None:
    @rule("real")
    def tenth(x: Node) -> tuple[Node, Node]:
        return ops.mul(x, 0.1), ops.div(x, 10)

    for dtype in ("float32", "float64"):
        assert rewritten(vector(dtype=dtype) * 0.1, tenth).op.name == "div"
        assert rewritten(vector(dtype=dtype) * 0.2, tenth).op.name == "mul"


def test_the_same_variable_means_the_same_node() -> None:
    x, z = vector(), vector("z")
    assert rewritten(x - x).op.name == "broadcast"
    assert rewritten(x - z).op.name == "sub"


def test_commutative_operands_are_tried_in_both_orders_at_every_level() -> None:
    a, b, x = vector("a"), vector("b"), vector()
    for left in (a * x, x * a):
        for right in (b * x, x * b):
            found = rewritten(left + right, factor)
            assert found.op.name == "mul" and found.inputs[1] is x


def test_guards_choose() -> None:
    @rule("exact", when=lambda x, root: x.dtype.is_float and root.name == "")
    def only_floats(x: Node) -> tuple[Node, Node]:
        return ops.abs(ops.abs(x)), ops.abs(x)

    x, i = vector(), vector("i", "int32")
    assert rewritten(ops.abs(ops.abs(x)), only_floats).inputs[0] is x
    assert rewritten(ops.abs(ops.abs(i)), only_floats).inputs[0] is not i


def test_a_guard_may_choose_among_matches() -> None:
    @rule("exact", when=lambda a, b: a.name == "second")
    def swapped(a: Node, b: Node) -> tuple[Node, Node]:
        return ops.add(a, b), ops.sub(a, b)

    first, second = vector("first"), vector("second")
    assert rewritten(first + first, swapped).op.name == "add"
    made = simplify(swapped)(Graph("g", {"y": first + second})).outputs["y"]
    assert made.op.name == "sub" and made.inputs == (second, first)


def test_attributes_bind_by_keyword() -> None:
    @rule("exact", types={"x": "f64[4,5]"})
    def negated_sum(x: Node, *, axes: tuple[int, ...] = (1,)) -> tuple[Node, Node]:
        total = REGISTRY["sum"]
        return ops.neg(total(x, axes=axes)), total(ops.neg(x), axes=axes)

    x = ops.input("x", (2, 3, 4))
    made = rewritten(ops.neg(ops.sum(x, axis=(0, 2))), negated_sum)
    assert made.op.name == "sum" and made.attrs["axes"] == (0, 2)
    assert str(negated_sum) == "neg(sum(x, axes=axes)) -> sum(neg(x), axes=axes) [exact]"


def test_procedural_rules() -> None:
    @rule("exact", on="reshape")
    def reshape_reshape(node: Node) -> Node | None:
        """reshape(reshape(x)) -> reshape(x)"""
        (inner,) = node.inputs
        return ops.reshape(inner.inputs[0], node.shape) if inner.op is node.op else None

    x = ops.input("x", (2, 6))
    made = rewritten(ops.reshape(ops.reshape(x, (3, 4)), (12,)), reshape_reshape)
    assert made.inputs == (x,)
    assert str(reshape_reshape) == "reshape(reshape(x)) -> reshape(x) [exact]"


def test_unchanged_means_the_same_graph() -> None:
    x = vector()
    w = ops.parameter("w", (3,))
    graph = Graph("g", {"y": ops.exp(x) + w}, {w: ops.neg(w)})
    assert simplify()(graph) is graph
    trace = Trace()
    assert Pipeline((simplify(),)).run(graph, trace=trace) is graph
    assert not trace.stage("simplify").changed


def test_updates_and_unchanged_nodes_are_kept() -> None:
    x, w = vector(), ops.parameter("w", (3,))
    kept = ops.exp(x)
    graph = simplify()(Graph("g", {"y": kept, "z": ops.neg(ops.neg(x))}, {w: ops.neg(ops.neg(w))}))
    assert graph.outputs["y"] is kept and graph.outputs["z"] is x and graph.updates == {w: w}


def test_every_firing_is_recorded_and_replacements_know_their_parents() -> None:
    a, b = vector("a"), vector("b")
    y = (a - ops.neg(b)).named("difference")
    trace = Trace()
    graph = Pipeline((simplify(),)).run(Graph("g", {"y": y}), trace=trace)
    (firing,) = trace.stage("simplify").firings
    assert firing.rule == "minus_negative" and firing.before == (y, y.inputs[1])
    made = graph.outputs["y"]
    assert firing.after is made and made.name == "difference" and made.source == y.source
    (origin,) = made.origins
    assert (origin.pass_name, origin.rule, origin.parents) == ("simplify", "minus_negative", firing.before)


def test_the_primal_survives_rewriting() -> None:
    x = vector()
    primal = ops.exp(x)
    with provenance.deriving("differentiate", "vjp:exp", parents=(primal,), primal=primal):
        ct = x - ops.neg(primal)
    assert simplify()(Graph("g", {"y": ct})).outputs["y"].primal is primal


def test_rules_that_never_end_are_stopped() -> None:
    @rule("exact")
    def there(a: Node, b: Node) -> tuple[Node, Node]:
        return ops.add(a, b), ops.sub(a, ops.neg(b))

    with pytest.raises(PassError, match="simplify does not come to an end") as error:
        simplify(there, minus_negative)(Graph("g", {"y": vector("a") + vector("b")}))
    assert "minus_negative" in str(error.value) and "there" in str(error.value)


def test_a_rule_that_changes_the_type_is_named() -> None:
    @rule("real")
    def wrong(x: Node) -> tuple[Node, Node]:
        return ops.exp(x), ops.cast(x, "float64")

    with pytest.raises(PassError, match=r"rule wrong changes the type of exp: f32\[3\] became f64\[3\]"):
        simplify(wrong)(Graph("g", {"y": ops.exp(vector())}))


def test_large_graphs_are_rewritten_in_linear_time_and_without_recursion() -> None:
    x = y = vector()
    for i in range(20_000):
        y = ops.neg(ops.neg(y)) if i % 2 else y - ops.neg(x)
    graph = simplify()(Graph("deep", {"y": y}))
    assert sum(n.op.name == "add" for n in graph.nodes) == 10_000 and len(graph) == 10_001
    a, b = x, ops.neg(ops.neg(x))
    for _ in range(200):
        a, b = b, a - ops.neg(b)
    context = Context("simplify")
    assert len(simplify().run(Graph("fibonacci", {"y": b}), context)) == 201
    assert len(context.firings) == 201


# --- pipelines ---


def breaks_types(graph: Graph, context: Context) -> Graph:
    (x,) = graph.inputs
    return Graph(graph.name, {"y": Node(REGISTRY["exp"], (x,), {}, TensorType(float32, (7,)))})


def changes_values(graph: Graph, context: Context) -> Graph:
    return Graph(graph.name, {"y": graph.outputs["y"] + 1.0})


def test_the_guilty_pass_is_named() -> None:
    graph = Graph("g", {"y": ops.exp(vector())})
    guilty = Pipeline((simplify(), Pass("breaker", breaks_types)))
    with pytest.raises(PassError, match="pass breaker broke the IR") as error:
        guilty.run(graph)
    assert "was valid after: simplify" in str(error.value)
    wrong = Pipeline((simplify(), Pass("adder", changes_values)))
    wrong.run(graph)  # valid IR: the verifier cannot see it
    with pytest.raises(PassError, match="pass adder changed the value of y: 3 of 3 elements"):
        wrong.run(graph, check="every-pass")


def test_the_first_wrong_element_is_shown() -> None:
    def only_second(graph: Graph, context: Context) -> Graph:
        return Graph(graph.name, {"y": graph.outputs["y"] + ops.constant(np.float32([0, 1, 0]))})

    pipeline = Pipeline((Pass("second", only_second),))
    with pytest.raises(PassError, match=r"1 of 3 elements, first at \(1,\): 1.0 became 2.0"):
        pipeline.run(Graph("g", {"y": ops.exp(vector())}), check="every-pass", data={"x": np.zeros(3, np.float32)})


def test_requirements_are_checked() -> None:
    graph = Graph("g", {"y": vector()})
    needy = Pass("fuse", lambda graph, context: graph, requires=frozenset({"expanded"}))
    with pytest.raises(PassError, match="pass fuse requires expanded, which no earlier pass ensures"):
        Pipeline((needy,)).run(graph)
    giver = Pass("expand", lambda graph, context: graph, ensures=frozenset({"expanded"}))
    assert Pipeline((giver, needy)).run(graph) is graph
    assert Pipeline((needy,)).run(graph, given=frozenset({"expanded"})) is graph


def test_the_trace_records_and_tells_observers() -> None:
    seen: list[Stage] = []
    trace = Trace(observers=[seen.append])

    def refusing(graph: Graph, context: Context) -> Graph:
        context.refuse("fuse exp", "it is used twice", tuple(graph.nodes))
        assert context.target == "cuda" and context.options == {"tile": 8}
        return graph

    others: list[Stage] = []
    graph = Graph("g", {"y": ops.neg(ops.neg(vector()))})
    pipeline = Pipeline((simplify(), Pass("fuse", refusing)))
    pipeline.run(graph, trace=trace, observers=[others.append], target="cuda", options={"tile": 8})
    assert [s.name for s in seen] == [s.name for s in others] == ["simplify", "fuse"]
    first = trace.stage("simplify")
    assert (first.nodes_before, first.nodes_after, first.rule_counts()) == (3, 1, {"neg_neg": 1})
    assert first.text() == print_graph(first.artifact)
    assert trace.stage("fuse").refusals[0].reason == "it is used twice"
    assert trace.table().splitlines()[1].split()[0] == "simplify" and trace.seconds > 0
    with pytest.raises(GraphError, match="no stage is named 'lower'"):
        trace.stage("lower")
    assert [p.name for p in pipeline] == ["simplify", "fuse"] and len(pipeline) == 2 and pipeline[-1].name == "fuse"


def test_unknown_checks_and_results_are_refused() -> None:
    graph = Graph("g", {"y": vector()})
    with pytest.raises(GraphError, match="check='always' is unknown"):
        Pipeline(()).run(graph, check="always")  # type: ignore[arg-type]
    with pytest.raises(PassError, match="pass lazy returned NoneType, not a Graph"):
        Pipeline((Pass("lazy", lambda graph, context: None),)).run(graph)  # type: ignore[arg-type, return-value]


def test_rewriting_keeps_values() -> None:
    x, t = vector(), vector("t")
    y = ops.neg(ops.neg(x)) * 1.0 - ops.neg(t * x) + x * 0.0 + (ops.sin(t) ** 2 - t + t)
    graph = Graph("g", {"y": y})
    after = simplify()(graph)
    data = {"x": np.float32([1, -2, 3]), "t": np.float32([0.5, 1, 2])}
    np.testing.assert_allclose(run(after, data)["y"], run(graph, data)["y"], rtol=1e-6)
    assert len(after) < len(graph)
