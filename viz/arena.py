"""The arena's timeline: which intermediate lies where in a program's memory, and when.

What enters: a memory plan (:class:`passes.memory.Arena`, read and not imported). What leaves: a :class:`Scene`, from which SVG, PNG and
PDF are written. Invariants: launches run to the right and addresses upwards, both to scale, so that the rectangle of a buffer is its
lifetime by its bytes; rectangles never overlap, and what lies right of a rectangle uses its memory again.
"""

from __future__ import annotations

import itertools
import math
import os
from typing import Any

from graphc.errors import DrawError
from viz.fonts import text_width, truncate
from viz.profiled import amount
from viz.render import SUFFIXES_OF_SCENES, suffix_of, write_scene
from viz.scene import Curve, Group, Rect, Scene, Text, straight
from viz.theme import Theme, theme_of
from viz.view import is_backward

WIDTH, HEIGHT, SIZE = 520.0, 330.0, 13.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 12.0, 34.0, 66.0
MOST = 1_000  # rectangles


def draw_arena(profile: Any, path: str | os.PathLike[str] | None = None, *, theme: str = "light") -> str | None:
    """Draw where a program's intermediates lie in memory and when, to a file (.svg, .png, .pdf, .tex) or as SVG text.

    Args:
        profile: what ``program.profile(...)`` gave.
        path: where to write; None returns the SVG. theme: "light", "dark", "projector" or "print".

    Raises:
        DrawError: it is no profile, or the program keeps nothing in an arena; an unknown theme or suffix.

    >>> import graphc
    >>> x = graphc.input("x", (64, 64))
    >>> program = graphc.compile(graphc.tanh(x @ x) @ x, threads=1)
    >>> "1 intermediate of 16.4 kB" in draw_arena(program.profile(1))
    True
    """
    arena = getattr(profile, "arena", None)
    if arena is None:
        raise DrawError(f"{type(profile).__name__} has no memory plan", help="give what program.profile(...) returns")
    if not arena.tenancies:
        raise DrawError("the program keeps no intermediate in memory: there is no arena to draw")
    suffix_of(path, SUFFIXES_OF_SCENES)
    return write_scene(arena_scene(arena, theme_of(theme)), path)


def arena_scene(arena: Any, theme: Theme) -> Scene:
    """The picture. Groups of buffers have the kind ``block`` and the ids ``b0, b1, ...`` by their place in the plan."""
    groups = [_frame(arena, theme)]
    lives = sorted(enumerate(arena.tenancies), key=lambda item: -item[1].size * (item[1].last - item[1].first + 1))[
        :MOST
    ]
    groups += [_block(k, life, arena, theme) for k, life in sorted(lives, key=lambda item: item[0])]
    groups += [_alive(arena, theme), _limits(arena, theme)]
    without = sum(life.size for life in arena.tenancies)
    count, several = len(arena.tenancies), len(arena.tenancies) != 1
    words = (
        f"{count} intermediate{'s' * several} of {amount(without, 'B')} in all {'share' if several else 'has'} an arena of "
        f"{amount(arena.size, 'B')}; at most {amount(arena.peak, 'B')} are alive at once, over {len(arena.kernels)} launches."
    )
    hidden = len(arena.tenancies) - len(lives)
    note = f" {hidden} smaller ones are not drawn." if hidden else ""
    shown = Text(LEFT, HEIGHT - 10, truncate(words + note, 200), SIZE * 0.85, "sans", theme.faint)
    lines = _wrapped(shown.text, WIDTH - LEFT - RIGHT, shown.size)
    texts = [
        Text(LEFT, HEIGHT - 8 - (len(lines) - 1 - i) * SIZE * 1.15, t, shown.size, "sans", theme.faint)
        for i, t in enumerate(lines)
    ]
    groups.append(Group("caption", "legend", "", list(texts)))
    return Scene(WIDTH, HEIGHT, theme.background, "Memory arena", words + note, groups)


def place(arena: Any) -> tuple[float, float, float, float]:
    """The plot's left, top, right and bottom in the picture."""
    return LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM


def _across(arena: Any, launch: float) -> float:
    return LEFT + launch / max(len(arena.kernels), 1) * (WIDTH - RIGHT - LEFT)


def _up(arena: Any, address: float) -> float:
    return HEIGHT - BOTTOM - address / max(arena.size, 1) * (HEIGHT - BOTTOM - TOP)


def _wrapped(text: str, room: float, size: float) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, "sans", size) > room and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _frame(arena: Any, theme: Theme) -> Group:
    group = Group("grid", "grid", "")
    size = SIZE * 0.85
    for address in _steps(arena.size, 5):
        y = _up(arena, address)
        group.shapes.append(straight((LEFT, y), (WIDTH - RIGHT, y), theme.cluster, 0.5))
        text = amount(address, "B").replace(".00 ", " ").replace(".0 ", " ") if address else "0"
        group.shapes.append(
            Text(LEFT - 6 - text_width(text, "sans", size), y + size * 0.35, text, size, "sans", theme.faint)
        )
    base = HEIGHT - BOTTOM
    for launch in _steps(max(len(arena.kernels) - 1, 1), 9):
        x = _across(arena, launch + 0.5)
        group.shapes.append(straight((x, base), (x, base + 4), theme.faint, 0.8))
        text = f"{launch:g}"
        group.shapes.append(
            Text(x - text_width(text, "sans", size) / 2, base + 4 + size, text, size, "sans", theme.faint)
        )
    group.shapes.append(Text(8, TOP - 16, "address", SIZE, "bold", theme.text))
    words = "launch"
    width = text_width(words, "bold", SIZE)
    group.shapes.append(Text(WIDTH - RIGHT - width, base + SIZE * 2.3, words, SIZE, "bold", theme.text))
    return group


def _steps(end: int, most: int) -> list[int]:
    """Round numbers from 0 to ``end``: 1, 2 or 5 times a power of ten apart.

    >>> _steps(130, 5), _steps(9, 9)
    ([0, 50, 100], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    step = 10 ** max(math.floor(math.log10(max(end / most, 1))), 0)
    while end / step > most:
        step *= 5 if str(step)[0] == "2" and end / step > 2.5 * most else 2
        if str(step)[0] == "4":
            step = step // 4 * 5
    return list(range(0, end + 1, step))


def said(life: Any, arena: Any) -> str:
    """One buffer in words."""
    slot = life.slot
    made = arena.kernels[life.first]
    parts = [f"{slot.name}: {_what(slot)}{slot.type}, {amount(slot.type.nbytes, 'B')} at address {slot.offset:,}"]
    parts.append(f"from launch {life.first} ({made}) to launch {life.last} ({arena.kernels[life.last]})")
    if life.after:
        more = f" and {len(life.after) - 4} more" if len(life.after) > 4 else ""
        parts.append(f"takes over the memory of {', '.join(life.after[:4])}{more}")
    return "; ".join(parts) + "."


def _what(slot: Any) -> str:
    ops = [n for n in slot.nodes if n.op.name not in ("constant", "broadcast")]
    if not ops:
        return ""
    source = f" ({ops[-1].source.short})" if ops[-1].source is not None else ""
    return f"{ops[-1].op.name}{source} "


def _block(k: int, life: Any, arena: Any, theme: Theme) -> Group:
    x0, x1 = _across(arena, life.first), _across(arena, life.last + 1)
    y0, y1 = _up(arena, life.slot.offset + life.size), _up(arena, life.slot.offset)
    nodes = [n for n in life.slot.nodes if n.op.name != "constant"]
    backward = bool(nodes) and all(is_backward(n) for n in nodes)
    fill, stroke = (theme.backward_fill, theme.backward) if backward else (theme.forward_fill, theme.forward)
    weight = min(1.0, (x1 - x0) / 4, max(y1 - y0, 0.2) / 4)
    dash = (4.0, 2.0) if backward and weight > 0.5 else ()
    group = Group(
        f"b{k}", "block", said(life, arena), [Rect(x0, y0, x1 - x0, max(y1 - y0, 0.4), 1.0, fill, stroke, weight, dash)]
    )
    size = SIZE * 0.8
    label = next((t for t in (f"{life.slot.name} {_what(life.slot).partition(' ')[0]}".strip(), life.slot.name)
                  if text_width(t, "sans", size) + 8 < x1 - x0), "")  # fmt: skip
    if label and y1 - y0 > size * 1.25:
        left = (x0 + x1 - text_width(label, "sans", size)) / 2
        group.shapes.append(Text(left, (y0 + y1) / 2 + size * 0.35, label, size, "sans", theme.text))
    return group


def _alive(arena: Any, theme: Theme) -> Group:
    """The bytes alive in each launch, as one line of steps."""
    corners = [(_across(arena, 0), _up(arena, 0))]
    for launch, size in enumerate(arena.live):
        if launch == 0 or size != arena.live[launch - 1]:
            x = _across(arena, launch)
            corners += [(x, corners[-1][1]), (x, _up(arena, size))]
    corners.append((_across(arena, len(arena.live)), corners[-1][1]))
    pieces = [straight(a, b, theme.saved, 1.6) for a, b in itertools.pairwise(corners)]
    points = (corners[0], *(p for piece in pieces for p in piece.points[1:]))
    return Group("alive", "alive", "", [Curve(points, theme.saved, 1.6)])


def _limits(arena: Any, theme: Theme) -> Group:
    """The arena's end, and what the lines are."""
    group = Group("limit", "limit", "")
    y = _up(arena, arena.size)
    group.shapes.append(straight((LEFT, y), (WIDTH - RIGHT, y), theme.text, 1.6, (6.0, 4.0)))
    size = SIZE * 0.85
    x = LEFT + 14
    entries = (
        (f"arena {amount(arena.size, 'B')}", theme.text, (6.0, 4.0)), (f"alive, at most {amount(arena.peak, 'B')}", theme.saved, ()),
    )  # fmt: skip
    for text, colour, dash in entries:
        group.shapes.append(straight((x, TOP - 20), (x + 24, TOP - 20), colour, 1.6, dash))
        group.shapes.append(Text(x + 30, TOP - 16, text, size, "sans", theme.faint))
        x += 30 + text_width(text, "sans", size) + 18
    return group
