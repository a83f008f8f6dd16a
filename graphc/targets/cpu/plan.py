"""What a native call needs to know of a program, its code aside: the table of addresses, the arena, the launches.

What enters: a :class:`~graphc.loops.ir.LoopProgram` whose buffers are placed. What leaves: a :class:`Plan`, which can be kept on disk as
bytes and read back for the same graph in another process. Invariant: a plan holds no address, no name of a file and no node; variables
are numbers in the bytes, so the plan is of whichever variables the present graph has.

The bytes are a length, a JSON object (arena size, number of launches, key of the object code, one row a slot), the launch list and
the data of constants.

>>> from graphc.loops.ir import LoopProgram
>>> from graphc.types import float32
>>> x = BufferSlot("x", TensorType(float32, (4,)), "input")
>>> plan = Plan.of(LoopProgram("p", {"x": x}, {}, ()))
>>> again, key = Plan.read(plan.written({}, "ab"), ())
>>> again.role("input")[0] == x, key
(True, 'ab')
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.loops.ir import BufferSlot, LoopProgram
from graphc.targets.cpu.launches import launch_list
from graphc.types import TensorType, as_dtype
from graphc.variables import Variable, aligned_empty

__all__ = ["LARGEST", "Plan"]

LARGEST = 64 << 20  # bytes of constants that a plan takes to disk
_ROLES = ("input", "parameter", "output", "constant")


@dataclass(frozen=True, eq=False)
class Plan:
    """A program's buffers, arena and launches.

    Attributes:
        slots: all buffers but the arena's, in the order of the table of addresses.
        launches: the launch list (:mod:`graphc.targets.cpu.launches`); None for a program made from text.
        count: number of launches.
    """

    slots: tuple[BufferSlot, ...]
    arena_size: int
    launches: np.ndarray | None
    count: int

    @classmethod
    def of(cls, program: LoopProgram, *, listed: bool = True) -> Plan:
        """The plan of a program (without its list of launches if it is not to be ``listed``)."""
        slots = tuple(slot for slot in program.buffers.values() if slot.role != "arena")
        return cls(slots, program.arena_size, launch_list(program) if listed else None, len(program.launches))

    def role(self, role: str) -> tuple[BufferSlot, ...]:
        """The slots of a role, in order."""
        return tuple(slot for slot in self.slots if slot.role == role)

    # --- bytes -----------------------------------------------------------------------------------------------------

    def constant_bytes(self) -> int:
        """Bytes of all constants."""
        return sum(slot.type.nbytes for slot in self.role("constant"))

    def written(self, variables: Mapping[Variable, int], objects: str) -> bytes:
        """The plan as bytes.

        Args:
            variables: a number for each variable.
            objects: the key of the object code.

        Raises:
            KeyError: a slot's variable has no number.
        """
        assert self.launches is not None, "a program made from text is not kept"
        types: dict[TensorType, int] = {}
        rows: list[int | str] = []
        for slot in self.slots:
            number = variables[slot.variable] if slot.role == "parameter" else -1
            rows += (slot.name, _ROLES.index(slot.role), types.setdefault(slot.type, len(types)), number)
        head = {
            "arena": self.arena_size, "count": self.count, "words": self.launches.size, "objects": objects,
            "types": [[t.dtype.name, *t.static_shape] for t in types], "slots": rows,
        }  # fmt: skip
        text = json.dumps(head, separators=(",", ":")).encode()
        data = [_bytes_of(slot) for slot in self.role("constant")]
        return b"".join((len(text).to_bytes(8, "little"), text, self.launches.astype("<i8").tobytes(), *data))

    @classmethod
    def read(cls, data: bytes, variables: Sequence[Variable]) -> tuple[Plan, str]:
        """The plan that :meth:`written` wrote, of these variables; and the key of its object code.

        Raises:
            ValueError: the bytes are none of a plan's, or of one with other variables.
        """
        try:
            return _read(data, variables)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a plan: {error}") from error


def _read(data: bytes, variables: Sequence[Variable]) -> tuple[Plan, str]:
    at = 8 + int.from_bytes(data[:8], "little")
    head: dict[str, Any] = json.loads(data[8:at])
    end = at + 8 * head["words"]
    launches = np.frombuffer(data[at:end], "<i8").astype(np.int64)
    types = [TensorType(as_dtype(name), tuple(shape)) for name, *shape in head["types"]]
    slots = []
    rows = iter(head["slots"])
    for name, role, type_number, variable_number in zip(rows, rows, rows, rows, strict=True):
        type_, constant, variable = types[type_number], None, None
        if role == 3:
            constant, end = _array_of(data, end, type_)
        elif role == 1:
            variable = variables[variable_number]
            if variable.type != type_:
                raise ValueError(f"variable {variable.name} is {variable.type}, not {type_}")
        slots.append(BufferSlot(name, type_, _ROLES[role], 0, constant, variable))  # type: ignore[arg-type]
    if end != len(data):
        raise ValueError("its length")
    return Plan(tuple(slots), head["arena"], launches, head["count"]), head["objects"]


def _bytes_of(slot: BufferSlot) -> bytes:
    return np.ascontiguousarray(slot.data, dtype=slot.type.dtype.numpy).reshape(slot.type.static_shape).tobytes()


def _array_of(data: bytes, start: int, type_: TensorType) -> tuple[np.ndarray, int]:
    """A constant's array, on a cache line of its own, and where the next one starts."""
    end = start + type_.nbytes
    array = aligned_empty(type_.static_shape, type_.dtype)
    array.reshape(-1)[...] = np.frombuffer(data[start:end], type_.dtype.numpy)
    array.setflags(write=False)
    return array, end
