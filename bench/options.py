"""The options of ``python -m bench`` and ``graphc bench``, with their help.

What enters: words of a command line. What leaves: a call of :func:`bench.command.run_bench`. Invariant: importing this is cheap;
nothing is measured or drawn until the command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

out = Console()
err = Console(stderr=True)


def bench(
    models: Annotated[
        str, typer.Option(help="Comma-separated workloads, or first parts of them (matmul); see --list.")
    ] = "",
    executors: Annotated[str, typer.Option(help="Comma-separated executors; see --list.")] = "",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of every executor.")] = None,
    rounds: Annotated[
        int | None, typer.Option(min=3, help="Bursts of each executor, in turn (9; 3 with --quick).")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="Start no workload after so many minutes.")] = 25.0,
    quick: Annotated[bool, typer.Option("--quick", help="Shorter bursts, fewer rounds, no cold compilation.")] = False,
    tiny: Annotated[bool, typer.Option("--tiny", help="Tiny sizes, to try the benchmark itself.")] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Every kernel's time, bytes, operations, share of the roofline; machine code."),
    ] = False,
    json: Annotated[
        Path | None,
        typer.Option(help="Keep the record here, written after every workload (else in the cache directory)."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the record of an interrupted run.")] = False,
    picture: Annotated[Path | None, typer.Option(help="Draw the ratios: .png, .svg or .pdf.")] = None,
    update_docs: Annotated[
        bool,
        typer.Option("--update-docs", help="Rewrite docs/bench.*, and the tables of docs/benchmarks.md and README.md."),
    ] = False,
    list_all: Annotated[bool, typer.Option("--list", help="List workloads and executors and leave.")] = False,
) -> None:
    """Time every model on every executor: graphc four ways, NumPy by hand, torch, torch.compile, jax, onnxruntime.

    Results are checked against float64 first; who disagrees is not timed. Every executor runs in a process of its own, in turn.
    """
    from bench.command import Request, describe, run_bench

    if list_all:
        for table in describe():
            out.print(table)
        return
    request = Request(
        _words(models),
        _words(executors),
        threads,
        rounds,
        minutes,
        quick,
        tiny,
        explain,
        resume,
        json,
        picture,
        update_docs,
    )
    run_bench(out, err, request)


def _words(text: str) -> tuple[str, ...]:
    """Comma-separated words; the name "graphc 1 thread" may be written "graphc 1 thread"."""
    return tuple(word.strip() for word in text.split(",") if word.strip())
