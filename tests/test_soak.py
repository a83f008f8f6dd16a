"""Long runs and rough handling: no growth, forks and interrupts in the middle, more threads than processors."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import graphc
from bench.executors.graphc_runner import make
from bench.soak import READINGS, Reading, Soak, soak
from bench.workloads import select
from graphc import ops
from graphc.driver import Program
from graphc.errors import GraphError

FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
ROOT = Path(__file__).parents[1]


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def small(threads: int) -> object:
    return make(select(["small"])[0].make(False), threads)


def chain(threads: int, n: int = 192) -> tuple[Program, np.ndarray, np.ndarray]:
    """A program whose products are large enough for several threads, an input, and what it gives."""
    x, w = ops.input("x", (n, n)), ops.constant(values(n, n) / n**0.5)
    program = graphc.compile(ops.tanh(ops.tanh(x @ w) @ w), threads=threads)
    array = values(n, n, seed=1)
    return program, array, program(x=array)


# --- growth --------------------------------------------------------------------------------------------------------


def test_three_thousand_steps_leave_nothing_behind() -> None:
    found = soak("small", [small(2).run], 3000)  # type: ignore[attr-defined]
    assert len(found.readings) == READINGS
    assert not found.faults(), found.line()


@pytest.mark.slow
def test_a_hundred_thousand_steps_leave_nothing_behind() -> None:
    found = soak("small", [small(2).run], 100_000)  # type: ignore[attr-defined]
    assert not found.faults(), found.line()


def test_two_programs_in_two_threads_leave_nothing_behind() -> None:
    found = soak("two", [small(1).run, small(2).run], 1500)  # type: ignore[attr-defined]
    assert not found.faults(), found.line()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads and files are read from /proc")
def test_growth_is_seen() -> None:
    kept: list[object] = []

    def leaks() -> None:
        kept.append(np.ones(600_000))  # 4.8 MB: more than a large process has lying about
        kept.append(os.open(os.devnull, os.O_RDONLY))

    found = soak("leak", [leaks], 60, warm_up=0)
    for item in kept:
        if isinstance(item, int):
            os.close(item)
    assert len(found.faults()) == 2, found.line()
    steady = Soak("s", 3, 1.0, (Reading(10, 1, 1),) * 3)
    assert not steady.faults() and "nothing grew" in steady.line()


def test_a_failing_step_ends_the_soak() -> None:
    def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        soak("bad", [fails, fails], 30, warm_up=0)


# --- the number of threads -----------------------------------------------------------------------------------------


def test_the_number_of_threads_is_set_for_later_programs() -> None:
    before = graphc.threads()
    x = ops.input("x", (3,))
    with graphc.threads(3):
        assert graphc.threads() == 3
        program = graphc.compile(x * 2.0)
        assert program.options.threads == 3
        with graphc.threads(1):
            assert graphc.compile(x * 2.0).options.threads == 1
            assert graphc.compile(x * 2.0, threads=2).options.threads == 2
        assert graphc.threads() == 3
    assert graphc.threads() == before and program.options.threads == 3
    graphc.threads(before)
    for bad in (0, -1, 1.5, True, 5000, "2"):
        with pytest.raises(GraphError, match="1 to 1024"):
            graphc.threads(bad)  # type: ignore[call-overload]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_are_the_same_bits_for_a_number_of_threads(threads: int) -> None:
    x = ops.input("x", (300, 200))
    outputs = {"product": ops.transpose(x) @ x, "sum": ops.sum(x), "rows": ops.softmax(x, axis=1)}
    program, array = graphc.compile(outputs, threads=threads), values(300, 200)
    first = {n: v.copy() for n, v in program(x=array).items()}
    again = graphc.compile(outputs, threads=threads)
    for _ in range(20):
        for made in (program, again):
            for name, value in made(x=array).items():
                assert value.tobytes() == first[name].tobytes(), name


def busy(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@FORK
def test_more_threads_than_processors_on_a_busy_machine() -> None:
    count = (os.cpu_count() or 1) + 2
    program, array, want = chain(count)
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=busy, args=(20.0,)) for _ in range(os.cpu_count() or 1)]
    for other in others:
        other.start()
    try:
        start = time.monotonic()
        for _ in range(30):
            np.testing.assert_array_equal(program(x=array), want)
        assert time.monotonic() - start < 15, "waiting must not take turns with the one waited for"
    finally:
        for other in others:
            other.kill()
            other.join()


# --- forks and interrupts ------------------------------------------------------------------------------------------


@FORK
@pytest.mark.parametrize("threads", [1, 2])
def test_a_fork_in_the_middle_of_a_call(threads: int) -> None:
    program, array, want = chain(threads)
    stop, wrong = threading.Event(), []

    def work() -> None:
        while not stop.is_set():
            if not np.array_equal(program(x=array), want):
                wrong.append(1)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(5):
            time.sleep(0.01)
            child = os.fork()
            if not child:
                status = 1
                try:
                    signal.alarm(30)  # a hang is a failure
                    fine = all(np.array_equal(program(x=array), want) for _ in range(10))
                    x = ops.input("x", (4,))
                    fine &= graphc.compile(x + 1.0, threads=threads)(x=np.zeros(4, np.float32)).tolist() == [1.0] * 4
                    status = 0 if fine else 2
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        worker.join(30)
    assert not wrong and not worker.is_alive()
    np.testing.assert_array_equal(program(x=array), want)


INTERRUPTED = """
import faulthandler, os, signal, sys, threading, time
faulthandler.dump_traceback_later(80, exit=True)  # a hang says where
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with SIGINT ignored
import numpy as np
import graphc
from graphc import ops

x, w = ops.input("x", (160, 160)), ops.parameter("w", (160, 160), np.zeros((160, 160), np.float32))
program = graphc.compile({"y": ops.tanh(x @ x)}, updates={w: w + 1.0}, threads=2)
array = np.full((160, 160), 0.01, np.float32)
want = program(x=array)["y"].copy()
variable, caught = w.attrs["variable"], 0
for delay in (0.01, 0.03, 0.05, 0.02, 0.04):
    threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        while True:
            program(x=array)
    except KeyboardInterrupt:
        caught += 1
    count = variable.value.flat[0]
    assert (variable.value == count).all(), "a step is done wholly or not at all"
    assert (program(x=array)["y"] == want).all()
    assert (variable.value == count + 1).all()
print("caught", caught, len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupt_in_the_middle_of_a_step_leaves_everything_whole() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("caught 5")


COMPILES = """
import sys
import numpy as np
import graphc
from graphc import ops
total = 0.0
for n in range(3, 9):
    x = ops.input("x", (n, 5))
    program = graphc.compile(ops.softmax(x * float(n), axis=1), threads=1)
    total += float(program(x=np.ones((n, 5), np.float32)).sum())
print(round(total, 3))
"""


def test_many_processes_share_one_cache(tmp_path: Path) -> None:
    """Several processes compile the same programs at once into a directory that is damaged meanwhile."""
    environment = {**os.environ, "GRAPHC_CACHE_DIR": str(tmp_path)}
    crowd = [
        subprocess.Popen([sys.executable, "-c", COMPILES], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    while any(process.poll() is None for process in crowd):
        for path in list(tmp_path.glob("*.gco"))[::2]:
            try:
                path.write_bytes(path.read_bytes()[:-3])
            except FileNotFoundError:
                continue
        time.sleep(0.05)
    assert [process.communicate()[0].strip() for process in crowd] == ["33.0"] * 4
    assert all(process.returncode == 0 for process in crowd)
    assert not list(tmp_path.glob("*.tmp")), "nothing unfinished is left"
