"""Profiles: rows a launch and a line, counted operations, the timeline for trace viewers, the machine's roofline."""

from __future__ import annotations

import json
import time
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest

from graphc import ops
from graphc.driver import Program
from graphc.driver import compile as compiled
from graphc.errors import GraphError, IndexRangeError, InputError, TargetUnavailable
from graphc.loops.cost import kernel_cost
from graphc.loops.parse import parse_kernel
from graphc.profile import Profile, ProfileRow
from graphc.targets.cpu import roofline as roofline_module
from graphc.targets.cpu.recorder import recorder_text
from graphc.targets.cpu.roofline import Roofline, measure_roofline, roofline


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def product(threads: int = 1, n: int = 96) -> tuple[Program, np.ndarray]:
    x, w = ops.input("x", (n, n)), ops.parameter("w", (n, n), values(n, n))
    y = ops.tanh(x @ w)
    total = ops.sum(y, axis=0)
    return compiled({"y": y, "total": total}, updates={w: w * 0.5}, threads=threads), values(n, n)


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_say_what_ran_for_which_line(threads: int) -> None:
    program, x = product(threads)
    w = program.loops.role("parameter")[0].variable
    before = w.value.copy()
    profile = program.profile(5, x=x)
    np.testing.assert_array_equal(w.value, before)
    assert [r.kernel for r in profile.rows] == [launch.kernel for launch in program.loops.launches]
    assert all(r.seconds > 0 and r.runs == 1 for r in profile.rows)
    assert all(0 < r.busy_threads <= threads * 1.01 for r in profile.rows)
    assert 2 * 96**3 <= profile.flops < 2.2 * 96**3
    lines = profile.lines()
    assert sum(line.seconds for line in lines) == pytest.approx(profile.seconds)
    assert {line.source.partition(":")[0] for line in lines} == {"test_profile.py"}
    roof = Roofline("a CPU", 1, 1e12, ((1 << 40, 1e12),))
    for text in (str(profile), profile.table(roof), profile.lines_table()):
        assert "test_profile.py:" in text and profile.rows[0].kernel in text


def test_operations_and_bytes_are_counted_from_the_loops() -> None:
    kernel = parse_kernel("""kernel gather(in table: f32[1000,4], in at: i32[3], inout sum: f32[3], out y: f32[3,4]) {
      for i in 3 {
        %i = load at[i]
        %g = guard %i < 1000 site 0
        acc %a: f32 = add
        for j in 4 {
          %0 = load table[%g,j]
          %1 = mul(%0, 2.0:f32)
          %2 = exp(%1)
          %3 = where(true:bool, %2, %1)
          %a add= %3
          store y[i,j] = %3
        }
        %4 = value %a
        store sum[i] += %4
      }
    }""")
    cost = kernel_cost(kernel)
    assert cost.flops == 3 * 4 * 3 + 3  # mul, exp and the accumulation; then one addition into memory
    assert cost.read == 12 * 4 + 3 * 4 + 3 * 4  # of the table only the rows that are read
    assert cost.written == 12 * 4 + 3 * 4
    assert cost.itemsize == 4


def test_the_timeline_is_a_chrome_trace(tmp_path: Path) -> None:
    program, x = product(2, 256)
    profile = program.profile(3, x=x)
    profile.save(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    kernels = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["cat"] == "kernel"]
    assert [e["name"] for e in kernels] == [r.kernel for r in profile.rows] * 3
    ends = [e["ts"] + e["dur"] for e in kernels]
    assert all(end <= after["ts"] + 1e-3 for end, after in zip(ends, kernels[1:], strict=False)), (
        "launches follow each other"
    )
    for event in kernels:
        assert event["dur"] >= 0 and event["tid"] == 0
        assert set(event["args"]) == {"launch", "bytes", "flops", "sources"}
    ranges = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["cat"] == "range"]
    assert ranges, "a product of this size runs on two threads"
    names = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert names[0] == "caller" and {e["tid"] for e in ranges} <= set(names)


def test_marks_cost_little() -> None:
    program, x = product(1, 64)
    executable = program.specialisations[0].executable
    assert executable is not None
    arrays = [x, *program.specialisations[0].variables, np.empty((64, 64), np.float32), np.empty(64, np.float32)]

    def best(run: object, repeats: int = 200) -> float:
        taken = []
        for _ in range(repeats):
            start = time.thread_time_ns()
            run()  # type: ignore[operator]
            taken.append(time.thread_time_ns() - start)
        return min(taken) * 1e-9

    executable.record(arrays, 1)  # type: ignore[attr-defined]
    plain = best(lambda: executable.run(arrays))
    inside = min(sum(r.seconds for r in program.profile(50, x=x).rows) for _ in range(3))
    assert inside < plain * 1.25, "the marks must not slow what they measure"


def test_what_cannot_be_profiled_says_so() -> None:
    program, x = product()
    with pytest.raises(InputError, match="'z' is no input"):
        program.profile(z=x)
    with pytest.raises(TargetUnavailable, match="cpu target"):
        compiled(ops.input("x", (3,)) * 2.0, target="interpreter").profile()
    with pytest.raises(GraphError, match="not been compiled yet"):
        compiled(ops.input("x", ("n",)) * 2.0).profile()
    table, at = ops.input("t", (4,)), ops.input("i", (2,), "int32")
    with pytest.raises(IndexRangeError):
        compiled(ops.take(table, at, axis=0)).profile(t=values(4), i=np.int32([0, 9]))


def test_a_profile_takes_the_sizes_of_its_inputs() -> None:
    program = compiled(ops.tanh(ops.input("x", ("n", 8))))
    program(x=values(3, 8))
    small = program.profile(2, x=values(3, 8)).rows[0]
    large = program.profile(2, x=values(300, 8)).rows[0]
    assert large.bytes == 100 * small.bytes == 2 * 300 * 8 * 4


def test_the_share_of_the_roof_is_that_of_the_binding_limit() -> None:
    roof = Roofline("a CPU", 2, 100e9, ((1 << 10, 100e9), (1 << 20, 10e9)))
    assert roof.bandwidth(1000) == 100e9 and roof.bandwidth(1 << 30) == 10e9
    assert roof.seconds(200e9, 0) == 2.0 and roof.seconds(100e9, 0, itemsize=8) == 2.0
    row = ProfileRow("k", 1.0, int(5e9), ("a.py:1",), int(1e9))
    assert row.share_of(roof) == 0.5
    assert "50%" in Profile((row,)).table(roof)


def test_the_roofline_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    measured: list[int] = []
    made = Roofline("a CPU", 1, 5e9, ((1024, 1e9), (2048, 5e8)))
    monkeypatch.setattr(roofline_module, "measure_roofline", lambda threads: measured.append(threads) or made)
    assert roofline(1) == made == roofline(1)
    assert measured == [1]
    (path,) = tmp_path.iterdir()
    path.write_text("{}")
    assert roofline(1) == made and measured == [1, 1], "a damaged file is measured anew"
    assert roofline(1, refresh=True) == made and measured == [1, 1, 1]


@pytest.mark.slow
def test_the_measured_roofline_is_plausible() -> None:
    roof = measure_roofline(1)
    assert 1e9 < roof.flops < 1e12
    rates = [rate for _, rate in roof.bandwidths]
    assert rates[0] > rates[-1] > 1e8
    assert "GFLOP/s" in roof.table()


@pytest.mark.parametrize(
    "system, machine", [("linux", "aarch64"), ("linux", "riscv64"), ("darwin", "arm64"), ("win32", "amd64")]
)
def test_the_recorder_is_valid_text_for_other_systems(system: str, machine: str) -> None:
    llvm.parse_assembly(recorder_text(system, machine)).verify()


def test_packed_steps_of_a_recurrent_net_are_profiled() -> None:
    """Their kernels are mapped to tiles already: operations are those of the plain loops, nodes the launch's own."""
    from graphc import nn

    x = ops.input("x", (4, 8, 32))
    net = nn.LSTM(64, name="lstm")
    program = compiled(ops.sum(net(x)), threads=1)
    profile = program.profile(2, interpreted=True, x=values(4, 8, 32))
    assert any("packed" in r.kernel for r in profile.rows), "the weights of the steps are packed once"
    products = [r for r in profile.rows if "packed" in r.kernel]
    least = 2 * 4 * 64 * 256
    assert all(least <= r.flops < 1.5 * least for r in products), [r.flops for r in products]
    assert sum(n.spent.flops for n in profile.nodes) == pytest.approx(profile.flops, rel=0.2)
