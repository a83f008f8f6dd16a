"""Passes: from the declared graph to kernels, one stage after the other, everything in its place.

What enters: a page's context with a compiled program. What leaves: a pane with a slider over the stages, the union of all stages as one
picture (:mod:`viz.union`), and for each stage the rules that fired, what was refused and why, and the kernels. Invariants: the picture is
laid out once, in Python; the script only toggles classes; every list leads to the boxes that it speaks of, here and in the page's picture.
"""

from __future__ import annotations

from html import escape
from typing import Any

from graphc.errors import DrawError
from viz.page.pane import Context, Pane
from viz.render import scene_of
from viz.svg import scene_to_svg
from viz.theme import VARIABLES
from viz.union import MOST, Made, Moment, Refused, Rule, Union, union_of

LISTED = 150  # rules, refusals or kernels of a stage that are listed


def pane(context: Context) -> Pane | None:
    """The pane; None where nothing was compiled."""
    if context.program is None:
        return None
    try:
        union = union_of(context.program.trace)
    except DrawError:
        return None  # a program that keeps no graphs
    stages = "".join(
        f'<button role="radio" aria-checked="false" tabindex="-1" data-stage="{k}">{escape(m.title)}</button>'
        for k, m in enumerate(union.moments)
    )
    gathered = (
        f"<p class=\"gp-passes-note\">More than {MOST} values: they are gathered by scope, and each box says how many it holds.</p>"
        if union.gathered else ""
    )  # fmt: skip
    html = (
        f'<div class="gp-passes-stages" role="radiogroup" aria-label="Stages of the compilation">{stages}</div>'
        '<div class="gp-passes-bar"><button class="gp-passes-prev" aria-label="The pass before">‹</button>'
        f'<input class="gp-passes-slider" type="range" min="0" max="{len(union.moments) - 1}" value="0" aria-label="Pass">'
        '<button class="gp-passes-next" aria-label="The next pass">›</button>'
        '<button class="gp-passes-play" aria-pressed="false">Play</button></div>'
        '<p class="gp-passes-say" aria-live="polite"></p><p class="gp-passes-count"></p>'
        f'{gathered}<div class="gp-passes-pic" tabindex="0" role="group" aria-label="All stages in one picture">'
        f'<div class="gp-passes-zoom"><button data-zoom="0.8" aria-label="Passes: zoom out">−</button>'
        '<button data-zoom="0">Fit</button><button data-zoom="1.25" aria-label="Passes: zoom in">+</button></div>'
        f"{scene_to_svg(scene_of(union.diagram, VARIABLES)[0])}</div>"
        '<p class="gp-passes-key"><i class="gp-passes-key-new"></i> new at this stage '
        '<i class="gp-passes-key-gone"></i> gone with this stage</p>'
        '<div class="gp-passes-lists"></div>'
    )
    return Pane("passes", "Passes", html, _data(union, context))


def _data(union: Union, context: Context) -> dict[str, Any]:
    boxes = {box: list(context.keys_of(nodes)) for box, nodes in union.nodes.items()}
    return {"boxes": boxes, "moments": [_moment(m) for m in union.moments], "gathered": union.gathered,
            "says": {b.id: b.tooltip for b in union.diagram.boxes.values()}}  # fmt: skip


def _moment(moment: Moment) -> dict[str, Any]:
    def short(items: tuple[Any, ...], make: Any) -> list[Any]:
        return [make(item) for item in items[:LISTED]]

    left = {
        "rules": max(len(moment.rules) - LISTED, 0), "refused": max(len(moment.refused) - LISTED, 0),
        "kernels": max(len(moment.kernels) - LISTED, 0),
    }  # fmt: skip
    return {
        "title": moment.title, "say": moment.say, "idle": list(moment.idle), "count": moment.count, "ms": moment.seconds * 1e3,
        "boxes": sorted(moment.boxes), "edges": sorted(moment.edges), "sizes": dict(moment.sizes), "left": left,
        "rules": short(moment.rules, _rule), "refused": short(moment.refused, _refused), "kernels": short(moment.kernels, _kernel),
    }  # fmt: skip


def _rule(rule: Rule) -> dict[str, Any]:
    return {"title": rule.name, "note": f"×{rule.count}" if rule.count > 1 else "", "boxes": rule.boxes}


def _refused(refused: Refused) -> dict[str, Any]:
    return {"title": refused.what, "note": refused.reason, "boxes": refused.boxes}


def _kernel(made: Made) -> dict[str, Any]:
    return {"title": made.name, "note": made.title, "boxes": made.boxes, "stored": made.stored}
