"""Memory planning: a place in one arena for every intermediate, by liveness.

What enters: a :class:`LoopProgram` whose arena buffers have no offsets. What leaves: the same with offsets (multiples of 64
bytes) and the arena's size. Invariant: two buffers that are alive in the same launch do not overlap. A buffer lives from the
launch that first names it to the last.

Method: walk the launches; give each buffer the best-fitting free block when it is born (the smallest that is large
enough, else new memory at the end) and give its block back, merged with its neighbours, when it dies.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

from graphc.loops.ir import BufferSlot, LoopProgram

ALIGNMENT = 64  # a cache line, and one AVX-512 vector


@dataclass(frozen=True)
class Lifetime:
    """A buffer's launches, both ends included."""

    slot: BufferSlot
    first: int
    last: int

    @property
    def size(self) -> int:
        return -(-max(self.slot.type.nbytes, 1) // ALIGNMENT) * ALIGNMENT


def lifetimes(program: LoopProgram) -> list[Lifetime]:
    """First and last launch of each arena buffer, in order of birth."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for number, launch in enumerate(program.launches):
        for name in launch.buffers:
            if program.buffers[name].role == "arena":
                first.setdefault(name, number)
                last[name] = number
    return [Lifetime(program.buffers[name], born, last[name]) for name, born in first.items()]


class _FreeList:
    """Free blocks of the arena, by offset and by size."""

    def __init__(self) -> None:
        self.by_offset: list[tuple[int, int]] = []  # (offset, size)
        self.by_size: list[tuple[int, int]] = []  # (size, offset)
        self.end = 0

    def take(self, size: int) -> int:
        """The offset of ``size`` bytes: best fit, else grown at the end (into a free block that ends there)."""
        at = bisect_left(self.by_size, (size, -1))
        if at < len(self.by_size):
            found, offset = self.by_size[at]
            self.remove(offset, found)
            if found > size:
                self.insert(offset + size, found - size)
            return offset
        if self.by_offset and sum(self.by_offset[-1]) == self.end:
            offset, found = self.by_offset[-1]
            self.remove(offset, found)
        else:
            offset = self.end
        self.end = offset + size
        return offset

    def give(self, offset: int, size: int) -> None:
        """Return a block, merged with its free neighbours."""
        at = bisect_left(self.by_offset, (offset, 0))
        if at < len(self.by_offset) and self.by_offset[at][0] == offset + size:
            right = self.by_offset[at]
            self.remove(*right)
            size += right[1]
        if at > 0 and sum(self.by_offset[at - 1]) == offset:
            left = self.by_offset[at - 1]
            self.remove(*left)
            offset, size = left[0], size + left[1]
        self.insert(offset, size)

    def insert(self, offset: int, size: int) -> None:
        insort(self.by_offset, (offset, size))
        insort(self.by_size, (size, offset))

    def remove(self, offset: int, size: int) -> None:
        del self.by_offset[bisect_left(self.by_offset, (offset, size))]
        del self.by_size[bisect_left(self.by_size, (size, offset))]


def plan_memory(program: LoopProgram) -> LoopProgram:
    """Place every arena buffer; buffers that no launch names are dropped."""
    free = _FreeList()
    alive = lifetimes(program)
    dying: dict[int, list[Lifetime]] = {}
    for life in alive:
        dying.setdefault(life.last, []).append(life)
    born: dict[int, list[Lifetime]] = {}
    for life in alive:
        born.setdefault(life.first, []).append(life)
    offsets: dict[str, int] = {}
    for number in range(len(program.launches)):
        for life in born.get(number, ()):
            offsets[life.slot.name] = free.take(life.size)
        for life in dying.get(number, ()):
            free.give(offsets[life.slot.name], life.size)
    buffers = {
        name: replace(slot, offset=offsets[name]) if slot.role == "arena" else slot
        for name, slot in program.buffers.items()
        if slot.role != "arena" or name in offsets
    }
    return replace(program, buffers=buffers, arena_size=free.end)


@dataclass(frozen=True)
class Tenancy(Lifetime):
    """A buffer's time in its place. ``after``: the buffers whose memory it takes over, in whole or in part, by address."""

    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arena:
    """A memory plan as a picture shows it.

    Attributes:
        tenancies: by birth. size: of the arena in bytes. live: bytes that are alive in each launch. kernels: of each launch.
        outside: role -> bytes of the buffers that are not in the arena.
    """

    tenancies: tuple[Tenancy, ...]
    size: int
    live: tuple[int, ...]
    kernels: tuple[str, ...]
    outside: Mapping[str, int]

    @property
    def peak(self) -> int:
        """The most bytes alive at once."""
        return max(self.live, default=0)


def arena_of(program: LoopProgram) -> Arena:
    """The plan of a program whose buffers have offsets."""
    latest: list[tuple[int, int, str]] = []  # (begin, end, the buffer that had these bytes last), without overlaps
    found = []
    for life in lifetimes(program):
        begin, end = life.slot.offset, life.slot.offset + life.size
        low = bisect_right(latest, begin, key=lambda piece: piece[1])
        high = bisect_left(latest, end, key=lambda piece: piece[0])
        taken = latest[low:high]
        rest = [(b, begin, n) for b, _, n in taken[:1] if b < begin] + [(end, e, n) for _, e, n in taken[-1:] if e > end]
        latest[low:high] = sorted([*rest, (begin, end, life.slot.name)])
        found.append(Tenancy(life.slot, life.first, life.last, tuple(dict.fromkeys(n for _, _, n in taken))))
    outside: dict[str, int] = {}
    for slot in program.buffers.values():
        if slot.role != "arena":
            outside[slot.role] = outside.get(slot.role, 0) + slot.type.nbytes
    return Arena(
        tuple(found), program.arena_size, tuple(_alive(program)[:-1]), tuple(n.kernel for n in program.launches), outside
    )


def _alive(program: LoopProgram) -> list[int]:
    """Bytes alive in each launch, and 0 after the last."""
    change = [0] * (len(program.launches) + 1)
    for life in lifetimes(program):
        change[life.first] += life.size
        change[life.last + 1] -= life.size
    return list(accumulate(change))


def live_bytes(program: LoopProgram) -> int:
    """The most that intermediates need at once: what no plan can go below (gaps between blocks come on top)."""
    return max(_alive(program), default=0)


def timeline(program: LoopProgram) -> str:
    """The memory plan as text: bytes by role, then offset, size and lifetime of each buffer in the arena."""
    held: dict[str, int] = {}
    for slot in program.buffers.values():
        if slot.role != "arena":
            held[slot.role] = held.get(slot.role, 0) + slot.type.nbytes
    rows = [f"{role}s: {size} bytes" for role, size in held.items()]
    rows.append(f"arena: {program.arena_size} bytes, of which {live_bytes(program)} are alive at once")
    for life in sorted(lifetimes(program), key=lambda x: (x.slot.offset, x.first)):
        rows.append(
            f"  {life.slot.offset:>10} + {life.size:<10} launches {life.first}..{life.last}  {life.slot.name}: {life.slot.type}"
        )
    return "\n".join(rows)
