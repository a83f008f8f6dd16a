"""The command line: demo, draw, bench, opt, build, doctor. The only place that prints, and one of two that import viz.

What enters: arguments. What leaves: text on the terminal, files where asked. Invariant: a user's mistake ends with the
error's own text and exit code 1, never with a traceback; ``--debug`` shows the traceback.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.options import bench
from graphc.errors import GraphcError

app = typer.Typer(
    name="graphc",
    help="Declare a model once; see, check and run everything that follows from it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)
app.command()(bench)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path("graphc-demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of weights, shuffling and split.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Worker threads.")] = None,
) -> None:
    """Train a classifier on 5,000 real digits, time it, and write a report that shows every stage."""
    from graphc.cli.demo import run_demo

    run_demo(out, folder, epochs=epochs, seed=seed, threads=threads)


VALUES = "Run it and show numbers: a=2,b=-3 or an .npz file with an array for each input."


@app.command()
def draw(
    model: Annotated[
        str, typer.Argument(help="file.py:name of a value, graph or model; or file.ir; or an example's name.")
    ],
    picture: Annotated[Path, typer.Argument(help="Where to write it: .svg, .png, .pdf, .dot, .tex (TikZ) or .html (steps).")],
    backward: Annotated[
        bool, typer.Option("--backward", help="Draw the backward graph beside the forward one.")
    ] = False,
    theme: Annotated[str, typer.Option(help="light, dark, projector or print.")] = "light",
    direction: Annotated[str, typer.Option(help="LR or TB.")] = "",
    level: Annotated[str, typer.Option(help="layers, ops, primitives or kernels.")] = "ops",
    notation: Annotated[str, typer.Option(help="Of gradients: bar or leibniz.")] = "bar",
    values: Annotated[str, typer.Option(help=VALUES)] = "",
    profile: Annotated[bool, typer.Option("--profile", help="For .html: time it, compiled and interpreted.")] = False,
    flow: Annotated[bool, typer.Option("--flow", help="Colour backward edges by their gradient: where it vanishes.")] = False,
) -> None:
    """Draw a graph, forward and backward."""
    from graphc.cli.models import load_model, load_values, profiled
    from viz import draw as draw_picture
    from viz import page as write_page

    options: dict[str, Any] = {"direction": direction} if direction else {}
    if picture.suffix.lower() == ".html":
        with out.status("reading the model") as status:
            found, given = load_model(model), load_values(values)
            timed = profiled(found, given, backward) if profile else None
            write_page(
                timed[0] if timed else found, picture, backward=backward, level=level, notation=notation, values=given, theme=theme,
                profile=timed[1] if timed else None, flow=flow, progress=status.update, **options,
            )  # fmt: skip
        out.print(f"wrote {picture}")
        return
    if profile:
        raise GraphcError(f"{picture.name}: a profile is a part of the page", help="name a file that ends in .html")
    draw_picture(
        load_model(model), picture, backward=backward, theme=theme, level=level, notation=notation,
        values=load_values(values), flow=flow, **options,
    )  # fmt: skip
    out.print(f"wrote {picture}")


@app.command()
def export(
    model: Annotated[
        str, typer.Argument(help="file.py:name of a value, graph or model; or file.ir; or an example's name.")
    ],
    file: Annotated[Path, typer.Argument(help="Where to write it: a .json file for Model Explorer.")],
) -> None:
    """Write a graph as JSON that Model Explorer opens: for graphs too large for one picture."""
    from graphc.cli.models import load_model
    from viz import export as write_graph

    write_graph(load_model(model), file)
    out.print(f"wrote {file}")


@app.command()
def slides(
    model: Annotated[
        str, typer.Argument(help="file.py:name of a value, graph or model; or file.ir; or an example's name.")
    ],
    deck: Annotated[Path, typer.Argument(help="Where to write them: .pdf, .html, .tex, or .svg for numbered files.")],
    backward: Annotated[bool, typer.Option("--backward/--forward", help="Go on to the backward pass.")] = True,
    theme: Annotated[str, typer.Option(help="light, dark, projector or print.")] = "projector",
    direction: Annotated[str, typer.Option(help="LR or TB.")] = "LR",
    level: Annotated[str, typer.Option(help="layers, ops, primitives or kernels.")] = "ops",
    notation: Annotated[str, typer.Option(help="Of gradients: bar or leibniz.")] = "bar",
    values: Annotated[str, typer.Option(help=VALUES)] = "",
    title: Annotated[str, typer.Option(help="Shown above every frame.")] = "",
    flow: Annotated[bool, typer.Option("--flow", help="Colour backward edges by their gradient: where it vanishes.")] = False,
) -> None:
    """Build a picture up step by step: numbered frames for a lecture, all with the same geometry."""
    from graphc.cli.models import load_model, load_values
    from viz import slides as write_slides

    count = write_slides(
        load_model(model), deck, backward=backward, theme=theme, direction=direction, level=level, notation=notation,
        values=load_values(values), title=title, flow=flow,
    )  # fmt: skip
    out.print(f"wrote {count} frames to {deck}")


@app.command()
def opt(
    file: Annotated[Path, typer.Argument(help="IR text; - for standard input.")],
    passes: Annotated[str, typer.Option(help="Comma-separated passes, in order; 'all' for the pipeline.")] = "all",
    emit: Annotated[str, typer.Option(help="graph, fusion, loops, llvm, asm, cuda or trace.")] = "graph",
    check: Annotated[str, typer.Option(help="off, verify or every-pass.")] = "verify",
    explain: Annotated[bool, typer.Option("--explain", help="List the rules that fired and what was refused.")] = False,
    list_passes: Annotated[bool, typer.Option("--list", help="List the passes and leave.")] = False,
) -> None:
    """Run passes on IR text and print what comes out."""
    from graphc.cli.opt import describe_passes, run_opt

    if list_passes:
        out.print(describe_passes(), markup=False, highlight=False)
        return
    run_opt(out, err, file, passes, emit, check, explain)


@app.command()
def build(
    model: Annotated[str, typer.Argument(help="file.py:name, file.ir, or an example's name.")],
    output: Annotated[Path, typer.Option("--out", "-o", help="File to write; - for the terminal.")] = Path("-"),
    target: Annotated[str, typer.Option(help="cuda, llvm, asm or loops.")] = "cuda",
    size: Annotated[list[str] | None, typer.Option(help="Size of a symbolic dimension: batch=128.")] = None,
) -> None:
    """Write a model's code for a target as one self-contained file."""
    from graphc.cli.build import run_build

    run_build(out, err, model, output, target, size or [])


@app.command()
def doctor() -> None:
    """Show versions, CPU features, LLVM, the Graphviz engine and CUDA, and what is missing."""
    from graphc.cli.doctor import run_doctor

    run_doctor(out)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the ``graphc`` command."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    try:
        app([a for a in given if a != "--debug"], standalone_mode=True)
    except GraphcError as error:
        if debug:
            raise
        err.print("[bold red]error[/]:", end=" ")
        err.print(str(error), markup=False, highlight=False)
        raise SystemExit(1) from None
    except OSError as error:
        if debug or error.filename is None:
            raise
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        err.print("[bold red]error[/]:", end=" ")
        err.print(f"{error.filename}: {reason}", markup=False, highlight=False)
        raise SystemExit(1) from None
    except KeyboardInterrupt as error:
        for note in getattr(error, "__notes__", []):
            err.print(note, markup=False, highlight=False)
        raise SystemExit(130) from None
