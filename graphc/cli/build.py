"""``graphc build``: a model's code for a target as one file. What enters: a model's name. What leaves: source text."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from graphc.cli.models import as_graph, load_model
from graphc.driver import Options, cuda_source
from graphc.driver import compile as compile_program
from graphc.errors import GraphError
from graphc.specialise import specialise

TARGETS = ("cuda", "llvm", "asm", "loops")


def run_build(out: Console, err: Console, model: str, output: Path, target: str, sizes: list[str]) -> None:
    """Write the code.

    Raises:
        GraphError: an unknown target, or a symbolic size that was not given.
    """
    if target not in TARGETS:
        raise GraphError(f"unknown target {target!r}", help=f"choose one of {', '.join(TARGETS)}")
    graph = as_graph(load_model(model))
    given = _sizes(sizes)
    unknown = sorted(set(given) - graph.symbols)
    if unknown:
        known = ", ".join(sorted(graph.symbols)) or "none"
        raise GraphError(f"{model} has no open size {', '.join(unknown)}", help=f"its open sizes: {known}")
    missing = sorted(graph.symbols - set(given))
    if missing:
        raise GraphError(f"the size of {', '.join(missing)} is open", help=f"give it: --size {missing[0]}=128")
    static = specialise(graph, given)
    text = cuda_source(static, Options()) if target == "cuda" else compile_program(static, target="cpu").source(target)
    if str(output) == "-":
        out.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    if not output.parent.is_dir():
        raise GraphError(f"there is no folder {output.parent}", help="make it first, or write to another place")
    output.write_text(text, encoding="utf-8")
    err.print(f"wrote {output}")


def _sizes(words: list[str]) -> dict[str, int]:
    sizes = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value.isdigit():
            raise GraphError(f"{word!r} is no size", help="write it as batch=128")
        sizes[name] = int(value)
    return sizes
