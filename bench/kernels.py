"""Matrix products, one kernel at a time: graphc against NumPy, PyTorch and JAX.

What enters: names of suites or shapes. What leaves: a table (or JSON) of best and median times and the ratio to the fastest
peer. Invariant: all executors of a row run in turn in one process on the same arrays, with the same number of threads,
after their results were compared with a float64 product. ::

    python -m bench.kernels                                   # squares, 1 thread and 2
    python -m bench.kernels mlp gpt --threads 1 --json out.json
    python -m bench.kernels 128x512x784 784x512x128:ta        # M x N x K; ta, tb: an operand is stored transposed

Libraries read their thread counts when they start, so each count is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

SUITES: dict[str, tuple[str, ...]] = {
    "square": ("64x64x64", "128x128x128", "256x256x256", "512x512x512", "1024x1024x1024", "2048x2048x2048"),
    "mlp": (
        "128x512x784", "128x256x512", "128x10x256", "784x512x128:ta", "512x256x128:ta", "256x10x128:ta",
        "128x512x256:tb", "128x256x10:tb",
    ),
    "gpt": (
        "1024x768x256", "1024x1024x256", "1024x256x1024", "256x768x1024:ta", "256x1024x1024:ta", "1024x256x256:ta",
        "1024x256x768:tb", "1024x256x1024:tb", "1024x1024x256:tb",
    ),
    "lstm": ("16x2048x512", "1600x2048x256", "512x2048x16:ta", "16x512x2048:tb"),
    "large": ("2048x3072x768", "1000x1000x1000"),
    "vector": ("1x1024x1024", "1x512x784", "1x1024x1024:tb", "2x1024x1024", "16x1024x1024"),
    "skinny": ("1024x1x1024", "1024x10x256", "1024x20x256", "1024x83x256", "256x83x1024:ta", "1024x256x83:tb"),
    "deep": ("96x64x40000:ta", "32x64x40000:ta"),
    "batched": ("32x128x128x64", "32x128x64x128", "32x128x128x64:tb"),
}  # fmt: skip
BUDGET = 0.6  # seconds of measuring an executor and shape


@dataclass(frozen=True)
class Shape:
    """A product of M x K and K x N arrays, perhaps many of them, perhaps stored transposed."""

    batch: int
    m: int
    n: int
    k: int
    transposed: str = ""

    @classmethod
    def parse(cls, text: str) -> Shape:
        """``[batch x] M x N x K [:ta|:tb|:tatb]``.

        >>> Shape.parse("128x10x256:tb")
        Shape(batch=0, m=128, n=10, k=256, transposed='tb')
        """
        sizes, _, transposed = text.partition(":")
        numbers = [int(part) for part in sizes.split("x")]
        if len(numbers) not in (3, 4) or transposed not in ("", "ta", "tb", "tatb"):
            raise argparse.ArgumentTypeError(f"{text}: expected MxNxK or BxMxNxK, with :ta, :tb or :tatb after it")
        m, n, k = numbers[-3:]
        return cls(numbers[0] if len(numbers) == 4 else 0, m, n, k, transposed)

    @property
    def operations(self) -> int:
        return 2 * max(self.batch, 1) * self.m * self.n * self.k

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        a = (self.k, self.m) if "ta" in self.transposed else (self.m, self.k)
        b = (self.n, self.k) if "tb" in self.transposed else (self.k, self.n)
        front = (self.batch,) if self.batch else ()
        return rng.random((*front, *a), np.float32) - 0.5, rng.random((*front, *b), np.float32) - 0.5

    def turn(self, a: Any, b: Any, swap: Callable[[Any], Any]) -> tuple[Any, Any]:
        """The operands as they are multiplied."""
        return swap(a) if "ta" in self.transposed else a, swap(b) if "tb" in self.transposed else b


def runners(shape: Shape, threads: int, peers: Sequence[str]) -> dict[str, Callable[[], Any]]:
    """A callable for each executor that is installed."""
    a, b = shape.arrays()
    made: dict[str, Callable[[], Any]] = {"graphc": _graphc(shape, threads, a, b)}
    x, y = shape.turn(a, b, lambda v: np.swapaxes(v, -1, -2))
    if "numpy" in peers:
        made["numpy"] = lambda: np.matmul(x, y)
    if "torch" in peers and find_spec("torch"):
        made["torch"] = _torch(shape, threads, a, b)
    if "jax" in peers and find_spec("jax"):
        made["jax"] = _jax(shape, a, b)
    return made


def _graphc(shape: Shape, threads: int, a: np.ndarray, b: np.ndarray) -> Callable[[], Any]:
    import graphc
    from graphc import ops

    left, right = ops.input("a", a.shape), ops.input("b", b.shape)
    axes = (0, 2, 1) if shape.batch else (1, 0)
    x, y = shape.turn(left, right, lambda v: ops.transpose(v, axes))
    program = graphc.compile(x @ y, threads=threads, cache=False)
    return lambda: program(a=a, b=b)


def _torch(shape: Shape, threads: int, a: np.ndarray, b: np.ndarray) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(threads)
    x, y = shape.turn(torch.from_numpy(a), torch.from_numpy(b), lambda v: v.transpose(-1, -2))
    return lambda: torch.matmul(x, y)


def _jax(shape: Shape, a: np.ndarray, b: np.ndarray) -> Callable[[], Any]:
    import jax

    def product(left: Any, right: Any) -> Any:
        return jax.numpy.matmul(*shape.turn(left, right, lambda v: jax.numpy.swapaxes(v, -1, -2)))

    compiled, x, y = jax.jit(product), jax.device_put(a), jax.device_put(b)
    return lambda: compiled(x, y).block_until_ready()


def check(shape: Shape, made: dict[str, Callable[[], Any]]) -> None:
    """Every executor's result is close to the float64 product, element by element."""
    a, b = shape.turn(*shape.arrays(), lambda v: np.swapaxes(v, -1, -2))
    wanted = a.astype(np.float64) @ b.astype(np.float64)
    size = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)
    for name, run in made.items():
        worst = float(np.max(np.abs(np.asarray(run(), np.float64) - wanted) / size))
        if not worst < 4 * np.sqrt(shape.k) * 2.0**-24:
            raise AssertionError(f"{name}: {shape} is wrong by {worst:.1e} of the terms' size")


def measure(text: str, threads: int, peers: Sequence[str], budget: float = BUDGET) -> dict[str, Any]:
    """One row: seconds of each executor (best, median, upper quartile), calls in turn until the budget is spent."""
    shape = Shape.parse(text)
    made = runners(shape, threads, peers)
    check(shape, made)
    samples: dict[str, list[float]] = {name: [] for name in made}
    end = perf_counter() + budget * len(made)
    while perf_counter() < end:
        for name, run in made.items():
            run()  # bring its code and its threads back
            for _ in range(5 if shape.operations < 1e9 else 1):
                start = perf_counter()
                run()
                samples[name].append(perf_counter() - start)
    times = {}
    for name, values in samples.items():
        median, high = np.percentile(values, [50, 75])
        rate = shape.operations / min(values) / 1e9
        times[name] = {
            "best": min(values), "median": float(median), "quartile": float(high), "gflops": rate, "calls": len(values),
        }  # fmt: skip
    others = {name: t for name, t in times.items() if name != "graphc"}
    row: dict[str, Any] = {"shape": text, **asdict(shape), "threads": threads, "times": times}
    if others:
        row["peer"] = min(others, key=lambda name: others[name]["best"])
        row["ratio"] = times["graphc"]["best"] / others[row["peer"]]["best"]
        row["ratio_of_medians"] = times["graphc"]["median"] / min(t["median"] for t in others.values())
    return row


def show(rows: Sequence[dict[str, Any]], console: Console) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row["times"]))
    table = Table(
        title="Matrix products: GFLOP/s of the best call (median call); ratio: graphc's time over the best peer's"
    )
    for title in ("M x N x K", "threads", *names, "ratio", "of medians"):
        table.add_column(title, justify="left" if title.startswith("M") else "right")
    for row in rows:
        rates = []
        for name in names:
            t = row["times"].get(name)
            rates.append(f"{t['gflops']:.1f} ({t['gflops'] * t['best'] / t['median']:.1f})" if t else "")
        ratios = [f"{row[r]:.2f}" if r in row else "" for r in ("ratio", "ratio_of_medians")]
        style = "bold" if row.get("ratio", 0) > 0.95 else ""
        table.add_row(row["shape"], str(row["threads"]), *rates, *ratios, style=style)
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse arguments, start one process for each thread count, print or save what they measured."""
    parser = argparse.ArgumentParser("python -m bench.kernels", description="Time matrix products against peers.")
    suites = ", ".join(SUITES)
    parser.add_argument("shapes", nargs="*", default=["square"], help=f"MxNxK[:ta|:tb] or suites: {suites}, all")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts")
    parser.add_argument("--peers", nargs="*", default=["numpy", "torch", "jax"], help="peers to compare with")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds an executor and shape")
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    names = list(SUITES) if "all" in chosen.shapes else chosen.shapes
    texts = [text for name in names for text in SUITES.get(name, (name,))]
    for text in texts:
        try:
            Shape.parse(text)
        except (argparse.ArgumentTypeError, ValueError) as wrong:
            parser.error(f"{wrong} (or one of: {suites})")
    if chosen.child:
        for text in texts:
            print(json.dumps(measure(text, chosen.threads[0], chosen.peers, chosen.budget)), flush=True)
        return
    rows = [row for threads in chosen.threads for row in _child(texts, threads, chosen)]
    show(rows, Console(width=120))
    if chosen.json:
        with open(chosen.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


def _child(texts: Sequence[str], threads: int, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure in a new process whose libraries start with ``threads`` threads."""
    count = str(threads)
    variables = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    flags = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'} intra_op_parallelism_threads={threads}"
    environment = {**os.environ, **dict.fromkeys(variables, count), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "bench.kernels", *texts, "--child", "--threads", count]
    command += ["--budget", str(chosen.budget), "--peers", *chosen.peers]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


if __name__ == "__main__":
    main()
