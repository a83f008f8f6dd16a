"""A step as a native callable: checks its arrays, makes its outputs and runs the program, all in one compiled function.

What enters: names and :class:`ArraySpec` of inputs and outputs, the addresses that stay the same, and the entry. What leaves:
a builtin function. Invariants: an array is accepted only as a plain ``numpy.ndarray`` that is aligned and C-contiguous, of the
exact dtype object and shape (and writeable, where it is written); an output given by the caller overlaps nothing else; on
anything else nothing has run, and the caller's slower code explains. A step in flight owns its table of addresses, its
arena and its status; a second call meanwhile takes the next block of the chain. ::

    step({"x": x}, None)        -> {"loss": array}, or NotImplemented where the slower code must look
    bound(x, y)                 -> the same with arguments by position or name; falls back by itself

Two things are read that are no functions: the fields of ``PyArrayObject`` (NumPy's C ABI, checked against the running NumPy
once a process; without them there is no native step) and, for outputs, ``PyArray_Empty`` from NumPy's API table.
"""

from __future__ import annotations

import ctypes
import functools
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.targets.cpu.call import ArraySpec
from graphc.targets.cpu.jit import Library
from graphc.targets.cpu.runtime import made_once, runtime_library

__all__ = ["Frame", "NativeStep", "native_available"]

_PYTHON = (
    "Py_IncRef", "Py_DecRef", "PyDict_GetItem", "PyDict_Size", "PyDict_New", "PyDict_SetItem", "PyTuple_GetItem",
    "PyTuple_Size", "PyLong_AsVoidPtr", "PyObject_Vectorcall", "PyObject_CallNoArgs", "PyEval_SaveThread",
    "PyEval_RestoreThread",
)  # fmt: skip
_PYARRAY_EMPTY = 184  # its place in NumPy's API table, the same since NumPy 1.0
_DATA, _RANK, _SHAPE, _DESCR, _FLAGS = 16, 24, 32, 56, 64  # byte offsets in PyArrayObject
_CONTIGUOUS_ALIGNED, _WRITEABLE = 0x101, 0x400
# Byte offsets in a block and in an array's description.
_BLOCK = {
    "inputs": 0, "input_specs": 8, "table": 16, "outputs": 24, "output_specs": 32, "entry": 40, "pool": 48, "status": 56,
    "busy": 64, "single": 72, "fallback": 80, "next": 88, "results": 96, "sizes": 104, "places": 112, "raise": 120,
}  # fmt: skip
_SPEC = {"name": 0, "descr": 8, "rank": 16, "shape": 24, "place": 32, "flags": 40, "fixed": 48}
_BLOCK_WORDS, _SPEC_WORDS = len(_BLOCK), len(_SPEC)

_TEXT = """
declare void @Py_IncRef(ptr)
declare void @Py_DecRef(ptr)
declare ptr @PyDict_GetItem(ptr, ptr)
declare i64 @PyDict_Size(ptr)
declare ptr @PyDict_New()
declare i32 @PyDict_SetItem(ptr, ptr, ptr)
declare ptr @PyTuple_GetItem(ptr, i64)
declare i64 @PyTuple_Size(ptr)
declare ptr @PyLong_AsVoidPtr(ptr)
declare ptr @PyObject_Vectorcall(ptr, ptr, i64, ptr)
declare ptr @PyObject_CallNoArgs(ptr)
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)
declare ptr @PyArray_Empty(i32, ptr, ptr, i32)
@graphc_ndarray = external global i8
@graphc_not_implemented = external global i8

define internal ptr @nothing() {
  call void @Py_IncRef(ptr @graphc_not_implemented)
  ret ptr @graphc_not_implemented
}
define internal void @release(ptr %block) {
  %p = getelementptr i8, ptr %block, i64 BLOCK.busy
  store atomic i64 0, ptr %p release, align 8
  ret void
}

; The first block of the chain that nobody uses, now ours; null if all are in use.
define internal ptr @claim(ptr %self) {
entry:
  %key = call ptr @PyTuple_GetItem(ptr %self, i64 0)
  %first = call ptr @PyLong_AsVoidPtr(ptr %key)
  br label %try
try:
  %block = phi ptr [ %first, %entry ], [ %next, %taken ]
  %none = icmp eq ptr %block, null
  br i1 %none, label %leave, label %swap
swap:
  %busy = getelementptr i8, ptr %block, i64 BLOCK.busy
  %pair = cmpxchg ptr %busy, i64 0, i64 1 acquire monotonic, align 8
  %ours = extractvalue { i64, i1 } %pair, 1
  br i1 %ours, label %leave, label %taken
taken:
  %next = call ptr @field(ptr %block, i64 BLOCK.next)
  br label %try
leave:
  ret ptr %block
}

; Whether the object is an array that fits; then its address is in the table.
define internal i1 @accept(ptr %array, ptr %spec, ptr %table) {
entry:
  %type = call ptr @field(ptr %array, i64 8)
  %plain = icmp eq ptr %type, @graphc_ndarray
  br i1 %plain, label %array_like, label %no
array_like:
  %descr = call ptr @field(ptr %array, i64 ARRAY.descr)
  %descr.want = call ptr @field(ptr %spec, i64 SPEC.descr)
  %descr.ok = icmp eq ptr %descr, %descr.want
  %flags.p = getelementptr i8, ptr %array, i64 ARRAY.flags
  %flags32 = load i32, ptr %flags.p, align 4
  %flags = zext i32 %flags32 to i64
  %flags.want = call i64 @number(ptr %spec, i64 SPEC.flags)
  %flags.have = and i64 %flags, %flags.want
  %flags.ok = icmp eq i64 %flags.have, %flags.want
  %rank.p = getelementptr i8, ptr %array, i64 ARRAY.rank
  %rank32 = load i32, ptr %rank.p, align 4
  %rank = zext i32 %rank32 to i64
  %rank.want = call i64 @number(ptr %spec, i64 SPEC.rank)
  %rank.ok = icmp eq i64 %rank, %rank.want
  %ok1 = and i1 %descr.ok, %flags.ok
  %ok2 = and i1 %ok1, %rank.ok
  %shape = call ptr @field(ptr %array, i64 ARRAY.shape)
  %shape.want = call ptr @field(ptr %spec, i64 SPEC.shape)
  br i1 %ok2, label %axes, label %no
axes:
  %i = phi i64 [ 0, %array_like ], [ %i1, %axis ]
  %more = icmp slt i64 %i, %rank.want
  br i1 %more, label %axis, label %yes
axis:
  %a.p = getelementptr i64, ptr %shape, i64 %i
  %b.p = getelementptr i64, ptr %shape.want, i64 %i
  %a = load i64, ptr %a.p, align 8
  %b = load i64, ptr %b.p, align 8
  %same = icmp eq i64 %a, %b
  %i1 = add i64 %i, 1
  br i1 %same, label %axes, label %no
yes:
  call void @note(ptr %array, ptr %spec, ptr %table)
  ret i1 true
no:
  ret i1 false
}
define internal void @note(ptr %array, ptr %spec, ptr %table) {
  %data = call ptr @field(ptr %array, i64 ARRAY.data)
  %place = call i64 @number(ptr %spec, i64 SPEC.place)
  %cell = getelementptr ptr, ptr %table, i64 %place
  store ptr %data, ptr %cell, align 8
  ret void
}

; Whether the memory at a place of the table overlaps that at another.
define internal i1 @overlaps(ptr %block, i64 %place) {
entry:
  %table = call ptr @field(ptr %block, i64 BLOCK.table)
  %sizes = call ptr @field(ptr %block, i64 BLOCK.sizes)
  %n = call i64 @number(ptr %block, i64 BLOCK.places)
  %a.p = getelementptr i64, ptr %table, i64 %place
  %a = load i64, ptr %a.p, align 8
  %as.p = getelementptr i64, ptr %sizes, i64 %place
  %as = load i64, ptr %as.p, align 8
  %ae = add i64 %a, %as
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i1, %next ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %look, label %no
look:
  %i1 = add i64 %i, 1
  %own = icmp eq i64 %i, %place
  br i1 %own, label %next, label %compare
compare:
  %b.p = getelementptr i64, ptr %table, i64 %i
  %b = load i64, ptr %b.p, align 8
  %bs.p = getelementptr i64, ptr %sizes, i64 %i
  %bs = load i64, ptr %bs.p, align 8
  %be = add i64 %b, %bs
  %before = icmp ult i64 %a, %be
  %after = icmp ult i64 %b, %ae
  %both = and i1 %before, %after
  br i1 %both, label %yes, label %next
next:
  br label %loop
yes:
  ret i1 true
no:
  ret i1 false
}

define internal void @drop(ptr %results, i64 %count) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i1, %one ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %leave
one:
  %p = getelementptr ptr, ptr %results, i64 %i
  %v = load ptr, ptr %p, align 8
  call void @Py_DecRef(ptr %v)
  %i1 = add i64 %i, 1
  br label %loop
leave:
  ret void
}

; Outputs, the run, the result. %out: a dict of the caller's arrays, or null. The block is released.
define internal ptr @finish(ptr %block, ptr %out) {
entry:
  %table = call ptr @field(ptr %block, i64 BLOCK.table)
  %n = call i64 @number(ptr %block, i64 BLOCK.outputs)
  %specs = call ptr @field(ptr %block, i64 BLOCK.output_specs)
  %results = call ptr @field(ptr %block, i64 BLOCK.results)
  %wanted = icmp ne ptr %out, null
  br label %outputs
outputs:
  %i = phi i64 [ 0, %entry ], [ %i1, %kept ]
  %given = phi i64 [ 0, %entry ], [ %given1, %kept ]
  %spec = getelementptr [SPEC_WORDS x i64], ptr %specs, i64 %i
  %more = icmp slt i64 %i, %n
  br i1 %more, label %output, label %complete
output:
  %fixed = call ptr @field(ptr %spec, i64 SPEC.fixed)
  %bound = icmp ne ptr %fixed, null
  br i1 %bound, label %ready, label %search
ready:
  call void @Py_IncRef(ptr %fixed)
  br label %kept
search:
  br i1 %wanted, label %lookup, label %make
lookup:
  %name = call ptr @field(ptr %spec, i64 SPEC.name)
  %found = call ptr @PyDict_GetItem(ptr %out, ptr %name)
  %absent = icmp eq ptr %found, null
  br i1 %absent, label %make, label %take
take:
  %fits = call i1 @accept(ptr %found, ptr %spec, ptr %table)
  br i1 %fits, label %own, label %misfit
own:
  call void @Py_IncRef(ptr %found)
  %g1 = add i64 %given, 1
  br label %kept
make:
  %rank = call i64 @number(ptr %spec, i64 SPEC.rank)
  %rank32 = trunc i64 %rank to i32
  %shape = call ptr @field(ptr %spec, i64 SPEC.shape)
  %descr = call ptr @field(ptr %spec, i64 SPEC.descr)
  call void @Py_IncRef(ptr %descr)         ; PyArray_Empty takes a reference away
  %fresh = call ptr @PyArray_Empty(i32 %rank32, ptr %shape, ptr %descr, i32 0)
  %failed = icmp eq ptr %fresh, null
  br i1 %failed, label %no_memory, label %made
made:
  call void @note(ptr %fresh, ptr %spec, ptr %table)
  br label %kept
kept:
  %array = phi ptr [ %fixed, %ready ], [ %found, %own ], [ %fresh, %made ]
  %given1 = phi i64 [ %given, %ready ], [ %g1, %own ], [ %given, %made ]
  %cell = getelementptr ptr, ptr %results, i64 %i
  store ptr %array, ptr %cell, align 8
  %i1 = add i64 %i, 1
  br label %outputs
complete:
  br i1 %wanted, label %all_known, label %run
all_known:
  %names = call i64 @PyDict_Size(ptr %out)
  %known = icmp eq i64 %names, %given
  br i1 %known, label %apart, label %misfit
apart:
  %j = phi i64 [ 0, %all_known ], [ %j1, %separate ]
  %left = icmp slt i64 %j, %n
  br i1 %left, label %check, label %run
check:
  %jspec = getelementptr [SPEC_WORDS x i64], ptr %specs, i64 %j
  %place = call i64 @number(ptr %jspec, i64 SPEC.place)
  %clash = call i1 @overlaps(ptr %block, i64 %place)
  br i1 %clash, label %misfit, label %separate
separate:
  %j1 = add i64 %j, 1
  br label %apart
run:
  %code = call ptr @field(ptr %block, i64 BLOCK.entry)
  %pool = call ptr @field(ptr %block, i64 BLOCK.pool)
  %status = call ptr @field(ptr %block, i64 BLOCK.status)
  %thread = call ptr @PyEval_SaveThread()
  call void %code(ptr %table, ptr %pool, ptr %status)
  call void @PyEval_RestoreThread(ptr %thread)
  %violated = load i64, ptr %status, align 8
  %fine = icmp eq i64 %violated, 0
  br i1 %fine, label %result, label %violation
violation:
  call void @drop(ptr %results, i64 %n)
  %raise = call ptr @field(ptr %block, i64 BLOCK.raise)
  %null = call ptr @PyObject_CallNoArgs(ptr %raise)
  call void @release(ptr %block)
  ret ptr null
result:
  %single = call i64 @number(ptr %block, i64 BLOCK.single)
  %alone = icmp ne i64 %single, 0
  br i1 %alone, label %one, label %many
one:
  %only = load ptr, ptr %results, align 8
  call void @release(ptr %block)
  ret ptr %only
many:
  %dict = call ptr @PyDict_New()
  br label %fill
fill:
  %k = phi i64 [ 0, %many ], [ %k1, %set ]
  %rest = icmp slt i64 %k, %n
  br i1 %rest, label %set, label %done
set:
  %kspec = getelementptr [SPEC_WORDS x i64], ptr %specs, i64 %k
  %kname = call ptr @field(ptr %kspec, i64 SPEC.name)
  %kcell = getelementptr ptr, ptr %results, i64 %k
  %value = load ptr, ptr %kcell, align 8
  %rc = call i32 @PyDict_SetItem(ptr %dict, ptr %kname, ptr %value)
  call void @Py_DecRef(ptr %value)
  %k1 = add i64 %k, 1
  br label %fill
done:
  call void @release(ptr %block)
  ret ptr %dict
misfit:
  %count = phi i64 [ %i, %take ], [ %n, %all_known ], [ %n, %check ]
  call void @drop(ptr %results, i64 %count)
  call void @release(ptr %block)
  %no = call ptr @nothing()
  ret ptr %no
no_memory:
  call void @drop(ptr %results, i64 %i)
  call void @release(ptr %block)
  ret ptr null
}

; step(inputs: dict[, out: dict])   METH_FASTCALL
define ptr @graphc_step(ptr %self, ptr %args, i64 %nargs) {
entry:
  %inputs = load ptr, ptr %args, align 8
  %two = icmp sgt i64 %nargs, 1
  br i1 %two, label %second, label %start
second:
  %out.p = getelementptr ptr, ptr %args, i64 1
  %given = load ptr, ptr %out.p, align 8
  br label %start
start:
  %out = phi ptr [ null, %entry ], [ %given, %second ]
  %block = call ptr @claim(ptr %self)
  %none = icmp eq ptr %block, null
  br i1 %none, label %slow, label %count
count:
  %table = call ptr @field(ptr %block, i64 BLOCK.table)
  %n = call i64 @number(ptr %block, i64 BLOCK.inputs)
  %specs = call ptr @field(ptr %block, i64 BLOCK.input_specs)
  %size = call i64 @PyDict_Size(ptr %inputs)
  %same = icmp eq i64 %size, %n
  br i1 %same, label %loop, label %misfit
loop:
  %i = phi i64 [ 0, %count ], [ %i1, %next ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %get, label %ready
get:
  %spec = getelementptr [SPEC_WORDS x i64], ptr %specs, i64 %i
  %name = call ptr @field(ptr %spec, i64 SPEC.name)
  %array = call ptr @PyDict_GetItem(ptr %inputs, ptr %name)
  %missing = icmp eq ptr %array, null
  br i1 %missing, label %misfit, label %check
check:
  %fits = call i1 @accept(ptr %array, ptr %spec, ptr %table)
  br i1 %fits, label %next, label %misfit
next:
  %i1 = add i64 %i, 1
  br label %loop
ready:
  %result = call ptr @finish(ptr %block, ptr %out)
  ret ptr %result
misfit:
  call void @release(ptr %block)
  br label %slow
slow:
  %no = call ptr @nothing()
  ret ptr %no
}

; bound(*arrays, **arrays)   METH_FASTCALL | METH_KEYWORDS: keywords are a tuple of names, their values follow the others
define ptr @graphc_bound(ptr %self, ptr %args, i64 %nargs, ptr %keywords) {
entry:
  %block = call ptr @claim(ptr %self)
  %none = icmp eq ptr %block, null
  br i1 %none, label %slow, label %count
count:
  %table = call ptr @field(ptr %block, i64 BLOCK.table)
  %n = call i64 @number(ptr %block, i64 BLOCK.inputs)
  %specs = call ptr @field(ptr %block, i64 BLOCK.input_specs)
  %plain = icmp eq ptr %keywords, null
  br i1 %plain, label %sum, label %named
named:
  %many = call i64 @PyTuple_Size(ptr %keywords)
  br label %sum
sum:
  %k = phi i64 [ 0, %count ], [ %many, %named ]
  %total = add i64 %nargs, %k
  %same = icmp eq i64 %total, %n
  br i1 %same, label %loop, label %misfit
loop:
  %i = phi i64 [ 0, %sum ], [ %i1, %next ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %get, label %ready
get:
  %array.p = getelementptr ptr, ptr %args, i64 %i
  %array = load ptr, ptr %array.p, align 8
  %positional = icmp slt i64 %i, %nargs
  br i1 %positional, label %place, label %keyword
keyword:
  %at = sub i64 %i, %nargs
  %word = call ptr @PyTuple_GetItem(ptr %keywords, i64 %at)
  br label %search
search:                ; most callers keep the order: begin with this input, and go round those without a position
  %s = phi i64 [ %i, %keyword ], [ %s2, %other ]
  %tries = phi i64 [ 0, %keyword ], [ %tries1, %other ]
  %all = icmp sge i64 %tries, %k
  br i1 %all, label %misfit, label %match
match:
  %sspec = getelementptr [SPEC_WORDS x i64], ptr %specs, i64 %s
  %sname = call ptr @field(ptr %sspec, i64 SPEC.name)
  %hit = icmp eq ptr %sname, %word
  br i1 %hit, label %place, label %other
other:
  %tries1 = add i64 %tries, 1
  %s1 = add i64 %s, 1
  %wrap = icmp eq i64 %s1, %n
  %s2 = select i1 %wrap, i64 %nargs, i64 %s1
  br label %search
place:
  %p = phi i64 [ %i, %get ], [ %s, %match ]
  %spec = getelementptr [SPEC_WORDS x i64], ptr %specs, i64 %p
  %fits = call i1 @accept(ptr %array, ptr %spec, ptr %table)
  br i1 %fits, label %next, label %misfit
next:
  %i1 = add i64 %i, 1
  br label %loop
ready:
  %result = call ptr @finish(ptr %block, ptr null)
  ret ptr %result
misfit:
  call void @release(ptr %block)
  br label %slow
slow:
  %key = call ptr @PyTuple_GetItem(ptr %self, i64 0)
  %first = call ptr @PyLong_AsVoidPtr(ptr %key)
  %fallback = call ptr @field(ptr %first, i64 BLOCK.fallback)
  %explained = call ptr @PyObject_Vectorcall(ptr %fallback, ptr %args, i64 %nargs, ptr %keywords)
  ret ptr %explained
}
"""


def _text() -> str:
    text = _TEXT
    array = {"data": _DATA, "rank": _RANK, "shape": _SHAPE, "descr": _DESCR, "flags": _FLAGS}
    for prefix, fields in (("BLOCK", _BLOCK), ("SPEC", _SPEC), ("ARRAY", array)):
        for name in sorted(fields, key=len, reverse=True):
            text = text.replace(f"{prefix}.{name}", str(fields[name]))
    # No optimisation pipeline runs that would inline these: %x = call ptr @field(ptr %base, i64 offset)
    read = r"%(\S+) = call (ptr|i64) @(?:field|number)\(ptr (\S+), i64 (\d+)\)"
    text = re.sub(read, r"%\1.g = getelementptr i8, ptr \3, i64 \4\n  %\1 = load \2, ptr %\1.g, align 8", text)
    return text.replace("SPEC_WORDS", str(_SPEC_WORDS))


# --- what the native code relies on --------------------------------------------------------------------------------


def _word(address: int, kind: Any = ctypes.c_void_p) -> int:
    return kind.from_address(address).value or 0


@functools.cache
def native_available() -> bool:
    """Whether this interpreter and NumPy lay out arrays as the native code reads them (checked on an array)."""
    array = np.zeros((2, 3), np.float32)
    base, size = id(array), array.__sizeof__()  # only CPython's id is an address
    if not hasattr(ctypes, "pythonapi") or size - array.nbytes < _FLAGS + 4 or object.__basicsize__ != 16:
        return False
    shape = _word(base + _SHAPE)
    return bool(
        _word(base + 8) == id(np.ndarray)
        and _word(base + _DATA) == array.ctypes.data
        and _word(base + _RANK, ctypes.c_int32) == 2
        and _word(base + _DESCR) == id(array.dtype)
        and _word(base + _FLAGS, ctypes.c_int32) == array.flags.num
        and [_word(shape, ctypes.c_int64), _word(shape + 8, ctypes.c_int64)] == [2, 3]
        and _array_empty()
    )


@functools.cache
def _array_empty() -> int:
    """The address of ``PyArray_Empty``; 0 if NumPy has no API table or the function does not do what it should."""
    try:
        from numpy._core import _multiarray_umath as core  # type: ignore[attr-defined]

        capsule = core._ARRAY_API
    except (ImportError, AttributeError):
        return 0
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = _word(pointer(capsule, None) + 8 * _PYARRAY_EMPTY)
    kinds = (ctypes.c_int, ctypes.c_void_p, ctypes.py_object, ctypes.c_int)
    dtype, shape = np.dtype(np.int32), (ctypes.c_int64 * 2)(4, 5)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(dtype))
    made = ctypes.PYFUNCTYPE(ctypes.py_object, *kinds)(address)(2, ctypes.addressof(shape), dtype, 0)
    return address if made.shape == (4, 5) and made.dtype is dtype and made.flags.c_contiguous else 0


class _MethodDef(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p), ("method", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p),
    )  # fmt: skip


@made_once
def step_library() -> tuple[Library, _MethodDef, _MethodDef]:
    symbols = {name: ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0 for name in _PYTHON}
    symbols |= {
        "PyArray_Empty": _array_empty(), "graphc_ndarray": id(np.ndarray), "graphc_not_implemented": id(NotImplemented),
    }  # fmt: skip
    library = runtime_library(_text(), ["graphc_step", "graphc_bound"], symbols)
    fast, with_keywords = 0x80, 0x82
    step = _MethodDef(b"step", library["graphc_step"], fast, b"step(inputs, out=None, /)")
    bound = _MethodDef(b"bound", library["graphc_bound"], with_keywords, b"The program with its arguments bound.")
    return library, step, bound


def _function(method: _MethodDef, self: tuple[Any, ...]) -> Callable[..., Any]:
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    function: Callable[..., Any] = make(ctypes.addressof(method), self, None)
    return function


# --- blocks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """What one call in flight owns.

    Attributes:
        table: one cell an array, the fixed ones filled in, and the arena's address last.
        status: the status cell. keep: whatever must live as long as they do (the arena).
    """

    table: ctypes.Array[ctypes.c_int64]
    status: ctypes.c_int64
    keep: Any


@dataclass
class NativeStep:
    """A program's native callables.

    Args:
        inputs, outputs: (name, what the array must be), in the program's order.
        sizes: bytes of each array of the table.
        entry, pool: addresses.
        single: return the one output itself instead of a dict.
        make_frame: a new table, status and arena.
        explain: raises the error that a status other than zero stands for.
        owner: kept alive by the callables (the code).
    """

    inputs: Sequence[tuple[str, ArraySpec]]
    outputs: Sequence[tuple[str, ArraySpec]]
    sizes: Sequence[int]
    entry: int
    pool: int
    single: bool
    make_frame: Callable[[], Frame]
    explain: Callable[[Frame], Exception]
    owner: Any
    _last: ctypes.Array[ctypes.c_int64] | None = field(default=None, repr=False)
    _blocks: list[Any] = field(default_factory=list, repr=False)

    def step(self) -> Callable[..., Any]:
        """``step(inputs, out=None)``: a dict of results, the single result, or NotImplemented."""
        block = self._block(self.inputs, {}, {}, 0)
        self._last = block
        return _function(step_library()[1], (ctypes.addressof(block), self))

    def widen(self, limit: int = 16) -> None:
        """Let one more call run at the same time (each has an arena of its own), up to ``limit``."""
        if self._last is not None and len(self._blocks) < limit:
            block = self._block(self.inputs, {}, {}, 0)
            last, self._last = self._last, block
            last[_BLOCK["next"] // 8] = ctypes.addressof(block)

    def bound(
        self,
        names: Sequence[str],
        inputs: dict[str, np.ndarray],
        outputs: dict[str, np.ndarray],
        fallback: Callable[..., Any],
    ) -> Callable[..., Any]:
        """A callable of the arrays ``names``, by position or keyword; the other arrays are fixed and known to fit."""
        specs = dict(self.inputs)
        fixed = {specs[name].place: array for name, array in inputs.items()}
        other = NativeStep(
            self.inputs,
            self.outputs,
            self.sizes,
            self.entry,
            self.pool,
            self.single,
            self.make_frame,
            self.explain,
            self.owner,
        )
        block = other._block([(n, specs[n]) for n in names], fixed, outputs, id(fallback))
        return _function(step_library()[2], (ctypes.addressof(block), other, fallback))

    def _block(
        self, inputs: Sequence[tuple[str, ArraySpec]], fixed: dict[int, np.ndarray], outputs: dict[str, np.ndarray],
        fallback: int,
    ) -> ctypes.Array[ctypes.c_int64]:  # fmt: skip
        frame = self.make_frame()
        for place, array in fixed.items():
            frame.table[place] = array.ctypes.data
        for name, spec in self.outputs:
            if name in outputs:
                frame.table[spec.place] = outputs[name].ctypes.data
        given, made = self._specs(inputs, {}), self._specs(self.outputs, outputs)
        results = (ctypes.c_int64 * max(len(self.outputs), 1))()
        sizes = (ctypes.c_int64 * max(len(self.sizes), 1))(*self.sizes)

        def violation() -> None:
            raise self.explain(frame)

        values = {
            "inputs": len(inputs), "input_specs": ctypes.addressof(given), "table": ctypes.addressof(frame.table),
            "outputs": len(self.outputs), "output_specs": ctypes.addressof(made), "entry": self.entry, "pool": self.pool,
            "status": ctypes.addressof(frame.status), "single": int(self.single), "fallback": fallback,
            "results": ctypes.addressof(results), "sizes": ctypes.addressof(sizes), "places": len(self.sizes),
            "raise": id(violation),
        }  # fmt: skip
        block = (ctypes.c_int64 * _BLOCK_WORDS)(*(values.get(name, 0) for name in _BLOCK))
        self._blocks.append((block, frame, given, made, results, sizes, violation, fixed, outputs, inputs))
        return block

    def _specs(
        self, arrays: Sequence[tuple[str, ArraySpec]], fixed: dict[str, np.ndarray]
    ) -> ctypes.Array[ctypes.c_int64]:
        words: list[int] = []
        for name, spec in arrays:
            shape = (ctypes.c_int64 * max(len(spec.shape), 1))(*spec.shape)
            name, dtype = sys.intern(name), np.dtype(spec.dtype)
            self._blocks.append((shape, dtype, name))
            flags = _CONTIGUOUS_ALIGNED | (_WRITEABLE if spec.writeable else 0)
            constant = id(fixed[name]) if name in fixed else 0
            words += [id(name), id(dtype), len(spec.shape), ctypes.addressof(shape), spec.place, flags, constant]
        return (ctypes.c_int64 * max(len(words), 1))(*words)
