"""Profile: where a step's time goes, compiled and interpreted, on the picture, in a table, under the roofline and in memory.

What enters: a page's context with a :class:`graphc.profile.Profile`. What leaves: a pane with the figures of every kernel and of every
interpreted node, their keys, and the heat of every box. Invariants: the heat of all boxes with what lies outside of the picture is the
step's whole time; both drawings are those that :func:`viz.draw_roofline` and :func:`viz.draw_arena` write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, TypeAlias

from graphc.ir import Node
from viz.arena import arena_scene, place, said
from viz.page.pane import Context, Pane
from viz.profiled import Kernel, duration, factor, kernels_of
from viz.roofline import roofline_scene
from viz.svg import scene_to_svg
from viz.theme import VARIABLES
from viz.view import is_backward

MOST = 400  # rows of a table
Work: TypeAlias = tuple[Sequence[tuple[Sequence[str], float]], Sequence[float]]  # (boxes, part) ..., seconds, operations, bytes


def pane(context: Context) -> Pane | None:
    """The pane; None where the page was given no profile."""
    profile = context.profile
    if profile is None:
        return None
    kernels = kernels_of(profile)
    works = _works(profile, context)
    heat = {side: _heat(work) for side, work in works.items()}
    data = {
        "kernels": [_kernel_row(k, context) for k in kernels],
        "nodes": _node_rows(profile, context),
        "heat": {side: found for side, (found, _) in heat.items()},
        "outside": {side: outside for side, (_, outside) in heat.items()},
        "total": {side: [sum(spent[k] for _, spent in work) for k in range(3)] for side, work in works.items()},
        "blocks": _blocks(profile, context),
        "plot": place(profile.arena) if profile.arena is not None else (),
        "launches": len(profile.rows),
    }
    return Pane("profile", "Profile", _html(profile), data)


def _works(profile: Any, context: Context) -> dict[str, list[Work]]:
    """What was spent, and on which boxes: of launches, and of interpreted nodes (in a picture of kernels, of what they are in)."""

    def spent_on(spent: Any) -> tuple[float, float, float]:
        return spent.seconds, spent.flops, spent.bytes

    compiled: list[Work] = [(_boxes(row.launch, row.nodes, context), spent_on(row)) for row in profile.rows]
    if context.view is not None or not profile.nodes:
        nodes: list[Work] = [(_boxes(-1, {row.node: 1.0}, context), spent_on(row.spent)) for row in profile.nodes]
        return {"compiled": compiled, "interpreted": nodes}
    within: list[Work] = [(_boxes(row.launch, {}, context), spent_on(row.interpreted)) for row in profile.rows]
    return {"compiled": compiled, "interpreted": [*within, ([((), 1.0)], spent_on(profile.rest))]}


def _boxes(launch: int, nodes: Mapping[Node, float], context: Context) -> list[tuple[Sequence[str], float]]:
    """Boxes with their parts of a launch: its own in a picture of kernels, else its nodes' by the statements run for each."""
    if context.view is None:
        own = _stretch(launch, context)
        return [((own,) if own else (), 1.0)]
    total = sum(nodes.values())
    return [(sorted(context.boxes_of(n)), count / total if total else 1 / len(nodes)) for n, count in nodes.items()]


def _stretch(launch: int, context: Context) -> str:
    """The box of a launch in a picture of kernels: its own, or that of the stretch that begins before it; "" if there is none."""
    return next((f"k{n}" for n in range(launch, -1, -1) if f"k{n}" in context.diagram.boxes), "")


def _heat(works: Sequence[Work]) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds, operations and bytes by box, and what no box shows."""
    found: dict[str, list[float]] = {}
    outside = [0.0, 0.0, 0.0]
    for shares, spent in works:
        for boxes, part in shares:
            for sums in [found.setdefault(box, [0.0, 0.0, 0.0]) for box in boxes] or [outside]:
                for k, value in enumerate(spent):
                    sums[k] += value * part / max(len(boxes), 1)
    return {box: sums for box, sums in found.items() if any(sums)}, outside


def _kernel_row(kernel: Kernel, context: Context) -> dict[str, Any]:
    keys = [f"kernel:{kernel.name}", *(f"node:{_stretch(n, context)}" for n in kernel.launches if context.view is None)]
    keys += context.keys_of(n for n in kernel.nodes if n.op.name != "constant")
    return {
        "title": kernel.title, "seconds": kernel.seconds, "faster": kernel.faster, "flops": kernel.flops, "bytes": kernel.bytes,
        "rate": kernel.rate, "roof": kernel.of_roof, "keys": keys, "say": kernel.sentence(), "launches": kernel.launches,
        "lines": [line.rpartition("/")[2] for line in kernel.lines],
    }  # fmt: skip


def _node_rows(profile: Any, context: Context) -> list[dict[str, Any]]:
    """The interpreter's nodes, those of one op and line together, slowest first; the rest as one row."""
    names = [row.kernel for row in profile.rows]
    groups: dict[tuple[str, str, bool], list[Any]] = {}
    for row in profile.nodes:
        if not row.node.op.is_source:
            line = row.node.source.short if row.node.source is not None else ""
            groups.setdefault((row.node.op.name, line, is_backward(row.node)), []).append(row)
    found = []
    for (op, line, backward), rows in groups.items():
        seconds, size, flops = (sum(getattr(r.spent, k) for r in rows) for k in ("seconds", "bytes", "flops"))
        title = op.replace("_", " ") + (" (backward)" if backward else "") + (f" ×{len(rows)}" if len(rows) > 1 else "")
        found.append({
            "title": title, "seconds": seconds, "bytes": size, "flops": flops, "rate": flops / seconds if seconds else 0.0,
            "keys": _node_keys(rows, names, context), "lines": [line] if line else [],
            "say": f"{title}: {duration(seconds)}, {seconds / (profile.interpreted_seconds or 1.0):.1%} of the interpreted step"
            + (f". From {line}." if line else "."),
        })  # fmt: skip
    found.sort(key=lambda row: -row["seconds"])
    if len(found) > MOST:
        rest = found[MOST:]
        sums = {k: sum(r[k] for r in rest) for k in ("seconds", "bytes", "flops")}
        title = f"{len(rest)} more"
        found[MOST:] = [{**sums, "title": title, "rate": 0.0, "keys": [], "lines": [], "say": f"{title}: {duration(sums['seconds'])}."}]
    return found


def _node_keys(rows: Sequence[Any], names: Sequence[str], context: Context) -> list[str]:
    """Of the kernels in the place of interpreted nodes, and of the nodes' boxes and lines."""
    launches = dict.fromkeys(n for r in rows for n in r.launches)
    keys = dict.fromkeys(f"kernel:{names[n]}" for n in launches)
    keys |= dict.fromkeys(f"node:k{n}" for n in launches if context.view is None)
    return list(keys | dict.fromkeys(context.keys_of(r.node for r in rows)))


def _blocks(profile: Any, context: Context) -> list[dict[str, Any]]:
    """What is said of each buffer of the arena, its keys, and the places of those whose memory it takes over."""
    if profile.arena is None:
        return []
    where: dict[str, int] = {}
    found = []
    for k, life in enumerate(profile.arena.tenancies):
        keys = [f"kernel:{profile.arena.kernels[life.first]}"]
        keys += context.keys_of(n for n in life.slot.nodes if n.op.name != "constant")
        found.append({"say": said(life, profile.arena), "keys": keys, "after": [where[n] for n in life.after]})
        where[life.slot.name] = k
    return found


def _html(profile: Any) -> str:
    roof = profile.roofline()
    threads = f"{profile.threads} thread{'s' * (profile.threads > 1)}"
    told = f"A step takes {duration(profile.seconds)} compiled ({threads})"
    sides = [("compiled", "Compiled"), ("none", "Neither")]
    if profile.nodes:
        slower = profile.interpreted_seconds / profile.seconds if profile.seconds else 0.0
        told += f" and {duration(profile.interpreted_seconds)} interpreted: compiled it is {factor(slower)}"
        sides.insert(1, ("interpreted", "Interpreted"))
    switch = "".join(f'<button role="radio" aria-checked="false" tabindex="-1" data-side="{s}">{t}</button>' for s, t in sides)
    arena = ""
    if profile.arena is not None and profile.arena.tenancies:
        arena = f'<h3>Memory of intermediates</h3><div class="gp-profile-arena">{scene_to_svg(arena_scene(profile.arena, VARIABLES))}</div>'
    return (
        f'<p class="gp-profile-told">{escape(told)}. <span class="gp-profile-cpu">{escape(roof.cpu)}</span></p>'
        f'<div class="gp-profile-bar"><div class="gp-profile-switch" role="radiogroup" aria-label="Costs on the picture">{switch}</div>'
        '<label><span>Shown </span><select class="gp-profile-what"><option>time</option><option>operations</option>'
        '<option>bytes moved</option></select></label>'
        '<div class="gp-profile-legend" role="img"></div></div>'
        '<div class="gp-profile-rows"><table><thead></thead><tbody></tbody></table></div>'
        f'<h3>Roofline</h3><div class="gp-profile-roof">{scene_to_svg(roofline_scene(profile, VARIABLES))}</div>{arena}'
        '<p class="gp-profile-say"></p>'
    )
