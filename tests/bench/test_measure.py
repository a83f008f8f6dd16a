"""Measuring with real worker processes at tiny sizes: refusal, failures, hangs, memory, families; records and resumption."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from io import StringIO
from pathlib import Path
from time import monotonic

import pytest
from rich.console import Console

from bench.command import Request, run_bench
from bench.executors import EXECUTORS, Executor
from bench.executors.graphc_runner import GraphcRunner
from bench.explain import assembly_of, by_kernel, explain
from bench.measure import Bench, Settings, choose
from bench.record import Record, Result, Row
from bench.remote import Remote, WorkerError
from bench.report import BEGIN, END, duration, goals_markdown, replace_block, row_table, update_documents
from bench.workloads import ENTRIES
from graphc.errors import GraphError
from graphc.profile import ProfileRow
from graphc.targets.cpu.roofline import Roofline

SETTINGS = Settings(threads=1, tiny=True, rounds=3, burst=0.002, cold=False)
WRONG = """
import os, time
import numpy as np
from bench.executors.numpy_runner import NumpyRunner

def load():
    return "wrong 1.0"

class Runner(NumpyRunner):
    def __init__(self, work, how):
        super().__init__(work)
        self.how = how

    def gradients(self):
        found = super().gradients()
        if self.how == "halves":
            found["d w0"] = found["d w0"] / 2
        return found

def make(work, threads, how):
    if how == "raises":
        raise ValueError("this one never works")
    if how == "dies":
        os.abort()
    if how == "hangs":
        time.sleep(60)
    return Runner(work, how)
"""


@pytest.fixture
def wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Executor]:
    """Executors that are wrong, raise, die and hang."""
    (tmp_path / "wrong_runner.py").write_text(WRONG)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return [Executor(how, "wrong_runner", {"how": how}) for how in ("halves", "raises", "dies", "hangs")]


def measure(executors: list[Executor], name: str = "mlp", settings: Settings = SETTINGS) -> Row:
    with Bench(executors, settings) as bench:
        return bench.row(ENTRIES[name], monotonic() + 60)


def test_bad_executors_are_shown_and_do_not_stop_the_others(wrong: list[Executor]) -> None:
    row = measure([*wrong, EXECUTORS["numpy"]], settings=replace(SETTINGS, patience=4.0))
    results = row.results
    assert results["halves"].status == "disagrees"
    assert "gradients are off by 0.5" in results["halves"].reason
    assert results["halves"].median is None
    assert results["raises"].status == "failed" and "this one never works" in results["raises"].reason
    assert results["dies"].status == "failed" and "SIGABRT" in results["dies"].reason
    assert results["hangs"].status == "timeout"
    assert results["numpy"].status == "ok"
    assert row.best_peer() is not None and row.best_peer()[0] == "numpy"  # type: ignore[index]
    console = Console(width=200, record=True, file=StringIO())
    console.print(row_table(row))
    shown = console.export_text()
    for word in ("halves: disagrees", "this one never works", "SIGABRT", "timeout"):
        assert word in shown


def test_a_row_says_all_there_is_to_say() -> None:
    row = measure(choose(["interpreter", "graphc", "numpy"]), settings=replace(SETTINGS, cold=True, explain=True))
    own = row.results["graphc"]
    assert own.status == "ok"
    assert own.median is not None and own.low is not None and own.high is not None
    assert 0 < own.low <= own.median <= own.high
    assert len(own.bursts) == 3
    assert own.cold is not None and own.warm is not None and own.cold > own.warm > 0
    assert own.note == "hit"
    assert own.peak is not None and own.above is not None and 10 < own.peak < 1000 and own.above < own.peak
    assert own.error is not None and 0 < own.error < 1e-5
    assert own.losses == pytest.approx(row.results["numpy"].losses, rel=1e-5)
    assert row.flops > 0 and row.ratio() is not None
    assert row.kernels is not None
    slowest = row.kernels["rows"][0]
    assert slowest["kernel"] == row.kernels["slowest"]
    assert slowest["seconds"] > 0 and slowest["bytes"] > 0 and 0 < slowest["of_roofline"] < 3
    assert row.kernels["assembly"].strip()


def test_the_code_of_a_frozen_programs_slowest_kernel_is_shown() -> None:
    """Its constants are packed ahead, and its functions named after that."""
    work = ENTRIES["mlp-inference"].make(False)
    explained = explain(GraphcRunner(work, 1), work)
    assert explained["assembly_lines"] > 20 and explained["assembly"].strip()
    assert "_packed" in assembly_of(GraphcRunner(work, 1).program.source("asm"), explained["slowest"])


def test_compilation_is_the_median_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    answers: list[float] = []
    start = Bench._start

    def watched(self: Bench, executor: Executor, caches: dict[str, Path]) -> Remote:
        worker = start(self, executor, caches)
        ask = worker.ask
        if executor.name == "graphc":
            started.append("cold" if not any(any(folder.iterdir()) for folder in caches.values()) else "warm")

            def asked(do: str, wait: float, **given: object) -> dict[str, object]:
                answer = ask(do, wait, **given)
                if do == "make":
                    answers.append(answer["first"])
                return answer

            monkeypatch.setattr(worker, "ask", asked)
        return worker

    monkeypatch.setattr(Bench, "_start", watched)
    own = measure(choose(["graphc", "numpy"]), settings=replace(SETTINGS, cold=True)).results["graphc"]
    assert started == ["cold"] * 3 + ["warm"] * 3
    assert own.median is not None and own.cold is not None and own.warm is not None
    assert own.cold == pytest.approx(sorted(answers[:3])[1] - own.median)
    assert own.warm == pytest.approx(sorted(answers[3:])[1] - own.median)


def test_launches_of_a_kernel_are_one_row() -> None:
    roof = Roofline("a CPU", 1, 100e9, ((1 << 30, 10e9),))
    launches = [ProfileRow("a", 1e-3, 10, ("x.py:1",), flops=5, busy_threads=1.0), ProfileRow("b", 2e-3, 1, ()),
                ProfileRow("a", 3e-3, 20, ("x.py:2",), flops=7, runs=2, busy_threads=2.0)]  # fmt: skip
    first, second = by_kernel(launches, roof)
    assert (first["kernel"], first["runs"], first["bytes"], first["flops"]) == ("a", 3, 30, 12)
    assert first["seconds"] == pytest.approx(4e-3) and first["threads"] == pytest.approx(1.75)
    assert first["lines"] == ["x.py:1", "x.py:2"] and second["kernel"] == "b"
    assert first["of_roofline"] == pytest.approx((30 / 10e9) / 4e-3)


def test_a_family_shares_its_workers() -> None:
    entries = [ENTRIES["matmul-64x64x64"], ENTRIES["matmul-512x512x512-b"]]
    with Bench(choose(["numpy"]), SETTINGS) as bench:
        bench.row(entries[0], monotonic() + 60)
        first = bench._workers["numpy"]
        row = bench.row(entries[1], monotonic() + 60)
        assert bench._workers["numpy"] is first
        assert row.results["numpy"].status == "ok"
    assert not first.alive


def test_missing_packages_and_skips_are_said() -> None:
    absent = Executor("absent", "bench.executors.numpy_runner", needs=("no_such_package_at_all",))
    entry = replace(ENTRIES["small"], skip={"numpy": "it is told to"})
    with Bench([absent, EXECUTORS["numpy"]], SETTINGS) as bench:
        row = bench.row(entry, monotonic() + 60)
    assert row.results["absent"] == Result("unavailable", "no_such_package_at_all is not installed")
    assert row.results["numpy"] == Result("skipped", "it is told to")
    assert row.best_peer() is None and row.ratio() is None and row.reached is None


def test_a_worker_that_is_gone_says_so(tmp_path: Path) -> None:
    with Remote(EXECUTORS["numpy"], 1, tmp_path / "log.txt") as worker:
        worker.load()
        with pytest.raises(WorkerError, match="KeyError"):
            worker.ask("make", 10, workload="none such", tiny=True, threads=1)
        assert worker.alive
        worker.close()
        with pytest.raises((WorkerError, ValueError)):
            worker.ask("burst", 1, seconds=0.1)


QUICK = Request(models=("small", "mlp-inference"), executors=("graphc", "numpy"), threads=1, quick=True, tiny=True)


def bench_quietly(request: Request) -> Record:
    console = Console(file=StringIO())
    return run_bench(console, console, request)


def test_records_are_complete_and_resume(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    first = bench_quietly(replace(QUICK, models=("small",), json=file))
    assert list(first.rows) == ["small"]
    data = json.loads(file.read_text())
    assert data["schema"] == 1
    assert set(data) == {"schema", "date", "machine", "versions", "conditions", "rows"}
    assert data["versions"]["graphc"].startswith("graphc ")
    assert data["conditions"]["executors"] == ["graphc", "numpy"]
    result = data["rows"]["small"]["results"]["graphc"]
    assert {"status", "median", "low", "high", "bursts", "peak", "above", "error", "losses"} <= set(result)
    assert json.loads(json.dumps(Record.read(file).as_json())) == data

    resumed = bench_quietly(replace(QUICK, json=file, resume=True))
    assert list(resumed.rows) == ["small", "mlp-inference"]
    assert resumed.rows["small"] == first.rows["small"], "what was measured is not measured again"
    assert json.loads(file.read_text())["rows"]["small"] == data["rows"]["small"]
    assert [f.name for f in tmp_path.iterdir()] == ["bench.json"], "no half-written file is left"


def test_rows_of_other_conditions_are_not_mixed(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    record = bench_quietly(replace(QUICK, models=("small",), executors=("numpy",), json=file))
    with pytest.raises(GraphError, match="executors was"):
        bench_quietly(replace(QUICK, json=file, resume=True))
    record.conditions = replace(record.conditions, code="older")
    record.write(file)
    with pytest.raises(GraphError, match="code was 'older'"):
        bench_quietly(replace(QUICK, executors=("numpy",), json=file, resume=True))
    for text in ("not json", "[]", '{"schema": 99}', '{"schema": 1, "rows": 3}'):
        file.write_text(text)
        with pytest.raises(GraphError, match="bench.json"):
            Record.read(file)


def test_time_is_bounded(tmp_path: Path) -> None:
    record = bench_quietly(replace(QUICK, minutes=0.0, json=tmp_path / "bench.json"))
    assert record.rows == {}


def record_of(tiny: bool = False) -> Record:
    """A record without measuring."""
    results = {
        "graphc": Result("ok", median=0.7e-3, low=0.6e-3, high=0.9e-3, cold=0.4, warm=0.04, peak=90.0, above=12.0),
        "numpy": Result("ok", median=2e-3, low=2e-3, high=2e-3, peak=50.0),
        "jax": Result("ok", median=1e-3, low=1e-3, high=1e-3, cold=4.1, peak=300.0),
        "torch eager": Result("failed", "it broke"),
    }
    rows = {
        "mlp": Row("mlp", "an MLP", results, flops=1e6, goal=0.7, cold_goal=0.5, warm_goal=0.03, cold_of=("jax", 0.1)),
        "gpt": Row("gpt", "a GPT", {**results, "graphc": Result("ok", median=1.5e-3)}, goal=0.75),
        "cnn": Row("cnn", "a CNN", {**results, "graphc": Result("unavailable", "graphc has no conv2d")}, goal=0.7),
    }
    from bench.record import Conditions

    conditions = Conditions(2, tiny, False, tuple(results), "a CPU", "code")
    return Record(conditions, "2026-11-23 10:00 UTC", {"cpu": "a CPU", "threads": "2"}, {"jax": "jax 1"}, rows)


def test_goals_are_judged() -> None:
    rows = record_of().rows
    assert rows["mlp"].best_peer() == ("jax", 1e-3)
    assert rows["mlp"].reached is True and rows["gpt"].reached is False and rows["cnn"].reached is None
    text = goals_markdown(record_of())
    assert (
        "| an MLP | 700 µs | jax | 1.00 ms | **0.70** | 400 ms | 40.0 ms | 90, ? | <= 0.7 ✓, cold <= 500 ms ✓, warm <= 30.0 ms ✗, cold <= 0.1 of jax's ✓ |"
        in text
    )
    assert "| a GPT | 1.50 ms | jax | 1.00 ms | 1.50 |" in text
    assert "| a CNN | unavailable | jax |" in text
    assert replace(rows["mlp"], against="numpy").ratio() == pytest.approx(0.35)


def test_documents_are_updated_between_their_markers(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/benchmarks.md"):
        (tmp_path / name).write_text(f"before\n{BEGIN}\nstale\n{END}\nafter\n")
    written = update_documents(record_of(), tmp_path)
    assert {p.name for p in written} == {"README.md", "benchmarks.md", "bench.json", "bench.svg", "bench.png"}
    assert all(p.stat().st_size > 300 for p in written)
    readme = (tmp_path / "README.md").read_text()
    assert (
        readme.startswith(f"before\n{BEGIN}\n2026-11-23")
        and readme.endswith(f"{END}\nafter\n")
        and "stale" not in readme
    )
    document = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "| a GPT | 1.50 | 2.00 | 1.00 | failed |" in document
    with pytest.raises(GraphError, match="tiny"):
        update_documents(record_of(tiny=True), tmp_path)
    (tmp_path / "plain.md").write_text("no markers")
    with pytest.raises(GraphError, match="no block"):
        replace_block(tmp_path / "plain.md", "text")


def test_durations_have_three_digits() -> None:
    assert [duration(s) for s in (2.5e-6, 0.0123, 3.0)] == ["2.50 µs", "12.3 ms", "3.00 s"]
