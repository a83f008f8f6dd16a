"""The parent's side of a worker: start it with an environment of its own, ask, wait at most so long, end it.

What enters: an executor and the folder of its caches. What leaves: answers as dictionaries. Invariant: when a
:class:`Remote` is closed, its process and every process that it started are gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

from bench.executors import Executor

ROOT = Path(__file__).resolve().parent.parent
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "GRAPHC_THREADS")


class WorkerError(Exception):
    """A worker answered with an error, died, or took too long; ``kind`` is "failed", "unavailable" or "timeout"."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def environment(threads: int, caches: Mapping[str, Path]) -> dict[str, str]:
    """What a worker sees: the project first on its path, the CPU only, its threads, and its own caches."""
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    limits = {name: str(threads) for name in THREADS}
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "TOKENIZERS_PARALLELISM": "false"}
    folders = {name: str(folder) for name, folder in caches.items()}
    return {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", **limits, **quiet, **folders}


class Remote:
    """A worker process. ::

    with Remote(executor, threads=2, log=folder / "log.txt") as worker:
        worker.ask("make", workload="mlp", tiny=False, threads=2, timeout=60)
    """

    def __init__(
        self, executor: Executor, threads: int, log: Path, caches: Mapping[str, Path] | None = None
    ) -> None:  # fmt: skip
        self.executor = executor
        self.threads = threads
        self._log = log
        self._buffer = b""
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                env=environment(threads, caches or {}), start_new_session=True,
            )  # fmt: skip

    @property
    def alive(self) -> bool:
        """Whether it can be asked again."""
        return self._process.poll() is None

    def load(self, timeout: float = 120) -> dict[str, Any]:
        """Import the framework."""
        return self.ask("load", timeout, executor=asdict(self.executor), threads=self.threads)

    def ask(self, what: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            WorkerError: the worker says no, dies or is silent for too long. It is of no use after the latter two.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps({"do": what, **arguments}) + "\n").encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        answer: dict[str, Any] = json.loads(self._line(what, timeout))
        if "error" in answer:
            raise WorkerError(answer["kind"], answer["error"])
        return answer

    def _line(self, what: str, timeout: float) -> bytes:
        stream = self._process.stdout
        assert stream is not None
        end = monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, end - monotonic())):
                    self.close()
                    raise WorkerError("timeout", f"{what}: no answer within {timeout:.0f} s")
                chunk = os.read(stream.fileno(), 1 << 16)
                if not chunk:
                    raise self._died()
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _died(self) -> WorkerError:
        self.close()
        code = self._process.returncode
        why = f"signal {-code} ({signal.Signals(-code).name})" if code and code < 0 else f"exit code {code}"
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return WorkerError("failed", f"the process ended with {why}" + (f": {lines[-1][:300]}" if lines else ""))

    def close(self) -> None:
        """End the process and its children."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                with contextlib.suppress(BrokenPipeError):  # what was still to be sent has no reader any more
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=0.5)  # it ends by itself when its requests end
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # compilers that it started, or itself if it hangs
        self._process.wait()

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
