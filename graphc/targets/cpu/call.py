"""The native side of a call: check arrays, note their addresses, run the entry with the GIL released.

What enters: a sequence of arrays and a :class:`CallBlock` that says what each must be. What leaves: None, or the number
of the first array that does not fit, whereupon nothing has run and slower code explains. Invariant: an array is accepted
only as a C-contiguous, aligned buffer of the exact element format, rank and shape (and writeable where asked).

NumPy's Python interfaces take over a microsecond to tell an address; the buffer protocol takes a few tens of nanoseconds.

>>> import numpy as np
>>> block = CallBlock([ArraySpec(0, np.dtype("float32"), (2, 3), writeable=False)], table=(table := (ctypes.c_int64 * 1)()))
>>> block.call([np.zeros((2, 3), np.float32)]), table[0] != 0, block.call([np.zeros((2, 3))])
(-1, True, 0)
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.targets.cpu.runtime import made_once, runtime_library

__all__ = ["ArraySpec", "CallBlock"]

_PYTHON = (
    "PySequence_GetItem", "Py_DecRef", "PyObject_GetBuffer", "PyBuffer_Release", "PyErr_Clear",
    "PyEval_SaveThread", "PyEval_RestoreThread",
)  # fmt: skip
_C_CONTIGUOUS_WITH_FORMAT, _WRITABLE = 0x38 | 0x04, 0x01
_SPEC = 6  # i64 words an array: place, rank, address of the shape, item size, format character, buffer flags

# Py_buffer (CPython's stable ABI since 3.11): buf 0, obj 8, len 16, itemsize 24, readonly 32, ndim 36, format 40, shape 48.
# The block: specs 0, table 8, number of arrays 16, entry 24 (0: only note the addresses), pool 32, status 40.
_TEXT = """
declare ptr @PySequence_GetItem(ptr, i64)
declare void @Py_DecRef(ptr)
declare i32 @PyObject_GetBuffer(ptr, ptr, i32)
declare void @PyBuffer_Release(ptr)
declare void @PyErr_Clear()
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)

define internal i1 @fits(ptr %view, ptr %spec) {
entry:
  %rank.p = getelementptr i8, ptr %spec, i64 8
  %shape.p = getelementptr i8, ptr %spec, i64 16
  %size.p = getelementptr i8, ptr %spec, i64 24
  %char.p = getelementptr i8, ptr %spec, i64 32
  %vsize.p = getelementptr i8, ptr %view, i64 24
  %vrank.p = getelementptr i8, ptr %view, i64 36
  %vformat.p = getelementptr i8, ptr %view, i64 40
  %vshape.p = getelementptr i8, ptr %view, i64 48
  %buf = load i64, ptr %view
  %size = load i64, ptr %size.p
  %vsize = load i64, ptr %vsize.p
  %size.ok = icmp eq i64 %size, %vsize
  %low = sub i64 %size, 1
  %over = and i64 %buf, %low
  %aligned = icmp eq i64 %over, 0
  %rank = load i64, ptr %rank.p
  %vrank32 = load i32, ptr %vrank.p
  %vrank = sext i32 %vrank32 to i64
  %rank.ok = icmp eq i64 %rank, %vrank
  %format = load ptr, ptr %vformat.p
  %named = icmp ne ptr %format, null
  %ok1 = and i1 %size.ok, %rank.ok
  %ok2 = and i1 %ok1, %aligned
  %ok = and i1 %ok2, %named
  br i1 %ok, label %element, label %no
element:
  %char64 = load i64, ptr %char.p
  %vchar = load i8, ptr %format
  %want = trunc i64 %char64 to i8
  %char.ok = icmp eq i8 %vchar, %want
  br i1 %char.ok, label %end, label %no
end:
  %second = getelementptr i8, ptr %format, i64 1
  %zero = load i8, ptr %second
  %single = icmp eq i8 %zero, 0
  %shape = load ptr, ptr %shape.p
  %vshape = load ptr, ptr %vshape.p
  br i1 %single, label %axes, label %no
axes:
  %i = phi i64 [ 0, %end ], [ %i1, %axis ]
  %more = icmp slt i64 %i, %rank
  br i1 %more, label %axis, label %yes
axis:
  %a.p = getelementptr i64, ptr %shape, i64 %i
  %b.p = getelementptr i64, ptr %vshape, i64 %i
  %a = load i64, ptr %a.p
  %b = load i64, ptr %b.p
  %same = icmp eq i64 %a, %b
  %i1 = add i64 %i, 1
  br i1 %same, label %axes, label %no
yes:
  ret i1 true
no:
  ret i1 false
}

define i64 @graphc_call(ptr %arrays, ptr %block) {
entry:
  %view = alloca [96 x i8], align 16
  %table.p = getelementptr i8, ptr %block, i64 8
  %n.p = getelementptr i8, ptr %block, i64 16
  %entry.p = getelementptr i8, ptr %block, i64 24
  %pool.p = getelementptr i8, ptr %block, i64 32
  %status.p = getelementptr i8, ptr %block, i64 40
  %specs = load ptr, ptr %block
  %table = load ptr, ptr %table.p
  %n = load i64, ptr %n.p
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i1, %next ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %get, label %ready
get:
  %array = call ptr @PySequence_GetItem(ptr %arrays, i64 %i)
  %missing = icmp eq ptr %array, null
  br i1 %missing, label %error, label %look
look:
  %offset = mul i64 %i, SPEC_BYTES
  %spec = getelementptr i8, ptr %specs, i64 %offset
  %flags.p = getelementptr i8, ptr %spec, i64 40
  %flags64 = load i64, ptr %flags.p
  %flags = trunc i64 %flags64 to i32
  %rc = call i32 @PyObject_GetBuffer(ptr %array, ptr %view, i32 %flags)
  call void @Py_DecRef(ptr %array)          ; the sequence still holds it
  %got = icmp eq i32 %rc, 0
  br i1 %got, label %check, label %error
check:
  %fits = call i1 @fits(ptr %view, ptr %spec)
  %address = load i64, ptr %view
  call void @PyBuffer_Release(ptr %view)
  br i1 %fits, label %next, label %misfit
next:
  %place = load i64, ptr %spec
  %cell = getelementptr i64, ptr %table, i64 %place
  store i64 %address, ptr %cell
  %i1 = add i64 %i, 1
  br label %loop
error:
  call void @PyErr_Clear()
  br label %misfit
misfit:
  ret i64 %i
ready:
  %code = load ptr, ptr %entry.p
  %pool = load ptr, ptr %pool.p
  %status = load ptr, ptr %status.p
  %nothing = icmp eq ptr %code, null
  br i1 %nothing, label %leave, label %run
run:
  %thread = call ptr @PyEval_SaveThread()
  call void %code(ptr %table, ptr %pool, ptr %status)
  call void @PyEval_RestoreThread(ptr %thread)
  br label %leave
leave:
  ret i64 -1
}
""".replace("SPEC_BYTES", str(_SPEC * 8))


@made_once
def native_call() -> Callable[[Any, int], int]:
    symbols = {
        name: ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0 for name in _PYTHON
    }  # fmt: skip
    library = runtime_library(_TEXT, ["graphc_call"], symbols)
    return ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.py_object, ctypes.c_void_p)(library["graphc_call"])


@dataclass(frozen=True)
class ArraySpec:
    """What one array must be, and which cell of the table takes its address."""

    place: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    writeable: bool


class CallBlock:
    """The arguments of a native call that stay the same from call to call.

    Args:
        specs: one an array.
        table: takes the addresses.
        entry: address of ``void entry(ptr table, ptr pool, ptr status)``; 0 notes the addresses only.
        pool, status: passed on to it.
    """

    def __init__(
        self,
        specs: Sequence[ArraySpec],
        table: ctypes.Array[ctypes.c_int64],
        entry: int = 0,
        pool: int = 0,
        status: int = 0,
    ) -> None:
        words: list[int] = []
        self._shapes = [(ctypes.c_int64 * max(len(s.shape), 1))(*s.shape) for s in specs]
        for spec, shape in zip(specs, self._shapes, strict=True):
            flags = _C_CONTIGUOUS_WITH_FORMAT | (_WRITABLE if spec.writeable else 0)
            form = np.empty(0, spec.dtype).data.format
            words += [spec.place, len(spec.shape), ctypes.addressof(shape), spec.dtype.itemsize, ord(form[0]), flags]
        self._specs = (ctypes.c_int64 * max(len(words), 1))(*words)
        self._table = table
        fields = (ctypes.addressof(self._specs), ctypes.addressof(table), len(specs), entry, pool, status)
        self._block = (ctypes.c_int64 * 6)(*fields)
        self._address = ctypes.addressof(self._block)
        self._function = native_call()

    def call(self, arrays: Sequence[Any]) -> int:
        """-1, or the number of the first array that does not fit (then nothing has run).

        Args:
            arrays: a list or tuple that holds as many arrays as there are specs.
        """
        return self._function(arrays, self._address)
