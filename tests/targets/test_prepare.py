"""The run time's own machine code: made once, beside the passes, whatever the process does meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from graphc.targets.cpu.jit import LLVM_LOCK
from graphc.targets.cpu.program import prepare
from graphc.targets.cpu.runtime import made_once


def test_it_is_made_once_however_many_ask_at_the_same_time() -> None:
    made: list[int] = []

    @made_once
    def slow() -> object:
        made.append(1)
        time.sleep(0.05)
        return object()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: slow(), range(8)))
    assert len(made) == 1 and all(f is found[0] for f in found)


def test_what_is_made_is_found_while_another_thread_generates_code() -> None:
    @made_once
    def quick(n: int, *, twice: bool = False) -> list[int]:
        return [n] * (1 + twice)

    first, second = quick(1), quick(1, twice=True)
    assert first == [1] and second == [1, 1]
    with LLVM_LOCK, ThreadPoolExecutor(1) as pool:  # held here, asked for there
        assert pool.submit(quick, 1).result(timeout=20) is first
        assert pool.submit(quick, 1, twice=True).result(timeout=20) is second


def test_a_program_compiles_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        prepare.__wrapped__(2)


FORK = "import os; child = os.fork(); child or os._exit(0); assert os.waitpid(child, 0)[1] == 0"


@pytest.mark.parametrize(
    ("then", "status"),
    [
        ("", 0),
        ("raise SystemExit(3)", 3),
        pytest.param(FORK, 0, marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")),
    ],
)
def test_the_process_may_end_or_fork_while_it_is_made(then: str, status: int, tmp_path: Path) -> None:
    """With an empty cache, so that the thread is in LLVM for a while."""
    code = f"from graphc.targets.cpu.program import prepare\nprepare(2)\n{then}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "GRAPHC_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (status, "")
    assert sum(file.is_file() for file in tmp_path.rglob("*")) >= 3, "the pool and two native calls are in the cache"
