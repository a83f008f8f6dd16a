"""``graphc bench``: the MLP training step on every executor. What enters: options. What leaves: a table, JSON."""

from __future__ import annotations

import json as json_format
import platform
import resource
from pathlib import Path

from rich.console import Console
from rich.table import Table

from graphc.errors import GraphError

TOLERANCE = 1e-3


def run_bench(
    out: Console, err: Console, peers: str, sizes: str, batch: int, threads: int | None, rounds: int,
    json: Path | None, kernels: bool,
) -> None:  # fmt: skip
    """Check that the executors agree, time them in turn, print the table.

    Raises:
        GraphError: sizes that are none, an unknown peer, or executors that disagree.
    """
    from bench.mlp import PEERS, Workload, candidates, disagreement
    from bench.timing import race
    from graphc.driver import default_threads

    layers = tuple(int(s) for s in sizes.split("-") if s.isdigit())
    if len(layers) < 2 or "-".join(map(str, layers)) != sizes:
        raise GraphError(f"{sizes!r} are no layer sizes", help="write them as 784-512-256-10")
    wanted = {"none": [], "all": list(PEERS)}.get(peers) if peers in ("none", "all") else peers.split(",")
    unknown = [p for p in wanted or [] if p not in PEERS]
    if unknown:
        raise GraphError(f"unknown peer {unknown[0]!r}", help=f"choose from {', '.join(PEERS)}")
    work = Workload(layers, batch)
    used = threads or default_threads()
    with err.status("compiling") as status:
        found = candidates(work, wanted, used)
        status.update("checking that the losses agree")
        off = disagreement(found)
        if off > TOLERANCE:
            raise GraphError(f"the executors disagree: losses differ by {off:.1%}")
        times = race({c.name: c.step for c in found}, rounds=rounds, progress=status.update)
    hand = times["numpy by hand"].median
    table = Table(title=f"training step, MLP {work.name}, {used} thread{'s' * (used > 1)}")
    for column in ("executor", "ms a step", "spread", "GFLOP/s", "against numpy by hand", "compile s", "note"):
        left = column in ("executor", "note")
        table.add_column(column, justify="left" if left else "right", no_wrap=column == "executor")
    for c in found:
        t = times[c.name]
        seconds = "" if c.compile_seconds is None else f"{c.compile_seconds:.2f}"
        table.add_row(
            c.name, f"{t.median * 1e3:.3f}", t.spread, f"{work.flops / t.median / 1e9:.0f}", f"{hand / t.median:.2f}x",
            seconds, c.note,
        )  # fmt: skip
    out.print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    out.print(
        f"losses agree to {off:.1e}; peak memory of this process {peak:.0f} MB; {platform.processor() or platform.machine()}"
    )
    fastest = min((t for n, t in times.items() if n not in ("graphc", "interpreter")), key=lambda t: t.median)
    out.print(
        f"graphc is {times['interpreter'].median / times['graphc'].median:.1f} times as fast as its interpreter, "
        f"{hand / times['graphc'].median:.2f} times as fast as numpy by hand; "
        f"its time is {times['graphc'].median / fastest.median:.2f} of the best other's ({fastest.name})"
    )
    if kernels:
        from bench.mlp import profile

        out.print(profile(work, used), markup=False, highlight=False)
    if json is not None:
        rows = {n: {"median": t.median, "low": t.low, "high": t.high, "calls": t.calls} for n, t in times.items()}
        record = {"workload": work.name, "threads": used, "seconds": rows, "disagreement": off}
        json.write_text(json_format.dumps(record, indent=2), encoding="utf-8")
