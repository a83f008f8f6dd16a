"""Graphviz, wherever it is: the ``dot`` program on the path, or the one inside of pygraphviz.

What enters: the forward part of a diagram with box sizes. What leaves: places, routes and frames in pixels, or None if there is
no engine or it failed; the caller then uses the own layout. Invariant: a missing or broken engine is never an error.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from viz import dot
from viz.model import Diagram

LIMIT = 240  # boxes up to which an engine is asked; its time grows faster than linearly
SECONDS = 20.0
Point = tuple[float, float]


@dataclass(frozen=True)
class Gaps:
    """Distances in pixels: between ranks, between boxes of a rank; and the type size."""

    rank: float
    node: float
    size: float


@dataclass
class RawLayout:
    """What an engine says: places as (x, y, width, height), routes by edge index, frames by scope."""

    places: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)
    routes: dict[int, list[Point]] = field(default_factory=dict)
    frames: dict[tuple[str, ...], tuple[float, float, float, float]] = field(default_factory=dict)
    width: float = 0.0
    height: float = 0.0
    engine: str = ""


def engine() -> str:
    """Which layout engine pictures use here: "dot ... at ...", "pygraphviz ...", or "own layout"."""
    program = shutil.which("dot")
    if program is not None:
        try:
            said = subprocess.run([program, "-V"], capture_output=True, text=True, timeout=SECONDS, check=True).stderr
        except (OSError, subprocess.SubprocessError):
            said = ""
        if "version" in said:
            return f"dot {said.split('version', 1)[1].split()[0]} at {program}"
    module = _pygraphviz()
    return f"pygraphviz {module.__version__}" if module is not None else "own layout"


def _pygraphviz() -> Any:
    try:
        import pygraphviz
    except (ImportError, OSError):  # not installed, or its shared library does not load here
        return None
    return pygraphviz


def layout(diagram: Diagram, sizes: Mapping[str, tuple[float, float]], gaps: Gaps) -> RawLayout | None:
    """Ask the engines in order."""
    source = dot.layout_dot(diagram, sizes, gaps)
    for name, ask in (("dot", _ask_program), ("pygraphviz", _ask_pygraphviz)):
        answer = ask(source)
        if answer is None:
            continue
        try:
            return _read(json.loads(answer), diagram, sizes, name)
        except (ValueError, KeyError, IndexError):  # an answer that is no layout: the next engine
            continue
    return None


def _ask_program(source: str) -> str | None:
    program = shutil.which("dot")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "-Tjson0"],
            input=source,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None
    return done.stdout


def _ask_pygraphviz(source: str) -> str | None:
    module = _pygraphviz()
    if module is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notes about font configuration; the layout holds no text
            graph = module.AGraph(string=source)
            answer = graph.draw(format="json0", prog="dot")
            graph.close()
    except (OSError, ValueError, RuntimeError, AttributeError):
        return None
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer


def _read(answer: Any, diagram: Diagram, sizes: Mapping[str, tuple[float, float]], name: str) -> RawLayout:
    left, bottom, right, top = (float(v) for v in answer["bb"].split(","))

    def point(text: str) -> Point:
        x, y = text.split(",")[-2:]
        return float(x) - left, top - float(y)

    result = RawLayout(width=right - left, height=top - bottom, engine=name)
    scopes = list(dot.clusters_of(diagram))
    for thing in answer.get("objects", ()):
        if thing["name"].startswith("cluster_"):
            x0, y0, x1, y1 = (float(v) for v in thing["bb"].split(","))
            result.frames[scopes[int(thing["name"][8:])]] = (x0 - left, top - y1, x1 - left, top - y0)
        else:
            result.places[thing["name"]] = (*point(thing["pos"]), *sizes[thing["name"]])
    for edge in answer.get("edges", ()):
        pieces = edge["pos"].split(";")[0].split()
        result.routes[int(edge["id"][1:])] = [point(p) for p in pieces if p[0] not in "es"]
    if set(result.places) != set(sizes):
        raise ValueError("the engine lost boxes")
    return result
