"""Compile one kernel of the loop IR and call it, on memory that is surrounded by canaries.

What enters: a kernel (or its text), arrays by parameter name. What leaves: the arrays that it writes. Invariant: a write
outside of an array fails the test; with ``fence`` a read or write beyond the array's end kills the process.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphc.loops.interpreter import poison, run_kernel
from graphc.loops.ir import Kernel
from graphc.loops.parse import parse_kernel
from graphc.loops.verify import verify_kernel
from graphc.targets.cpu.emit import emit_kernel
from graphc.targets.cpu.host import VectorTarget, vector_target
from graphc.targets.cpu.jit import Library, emit_object, load_object
from graphc.targets.cpu.threads import ThreadPool, parallel_address

Array = np.ndarray[Any, np.dtype[Any]]
CANARY = 0xA5
MARGIN = 256


class Compiled:
    """A kernel as machine code."""

    def __init__(self, kernel: Kernel | str, target: VectorTarget | None = None, threads: int = 1) -> None:
        self.kernel = parse_kernel(kernel) if isinstance(kernel, str) else kernel
        verify_kernel(self.kernel)
        self.target = target or vector_target()
        self.pool = ThreadPool.get(threads)
        module = self.target.module(self.kernel.name)
        name = emit_kernel(module, self.kernel, self.target, threads)
        self.text = module.text()
        symbols = {"graphc_parallel": parallel_address()} if "@graphc_parallel" in self.text else {}
        self.library: Library = load_object(emit_object(self.text, self.target), [name], symbols)
        signature = [*[ctypes.c_void_p] * (len(self.kernel.params) + 2), ctypes.c_int64]
        self.call = ctypes.CFUNCTYPE(None, *signature)(self.library[name])

    def run(
        self, arrays: Mapping[str, Array], *, site_base: int = 0, fence: bool = False
    ) -> tuple[dict[str, Array], int]:
        """The written arrays and the status cell; nothing of ``arrays`` is changed."""
        memory = {p.name: _Guarded(p.shape, p.dtype.numpy, fence) for p in self.kernel.params}
        for param in self.kernel.params:
            cell = memory[param.name].array
            cell[...] = poison(param.shape, param.dtype.numpy) if param.access == "out" else arrays[param.name]
        status = ctypes.c_int64(0)
        pointers = [memory[p.name].address for p in self.kernel.params]
        self.call(*pointers, self.pool.address, ctypes.addressof(status), site_base)
        for param in self.kernel.params:
            assert memory[param.name].intact(), f"kernel {self.kernel.name} writes outside of {param.name}"
        return {p.name: memory[p.name].array.copy() for p in self.kernel.params if p.access != "in"}, status.value


class _Guarded:
    """An array between canaries, or right before a page that may not be touched."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], fence: bool) -> None:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if fence:
            page = mmap.PAGESIZE
            pages = -(-max(size, 1) // page) + 1
            self.map = mmap.mmap(-1, pages * page)
            self.bytes = np.frombuffer(self.map, np.uint8)
            start = (pages - 1) * page - size
            protect = ctypes.CDLL(None, use_errno=True).mprotect
            protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
            assert protect(self.bytes.ctypes.data + (pages - 1) * page, page, 0) == 0
            self.after = slice(0, 0)
        else:
            self.bytes = np.full(size + 2 * MARGIN, CANARY, np.uint8)
            start = MARGIN
            self.after = slice(start + size, None)
        self.before = slice(0, start if not fence else 0)
        self.array = self.bytes[start : start + size].view(dtype).reshape(shape)
        self.address = self.bytes.ctypes.data + start

    def intact(self) -> bool:
        return all((self.bytes[part] == CANARY).all() for part in (self.before, self.after))


def check(
    kernel: Kernel | str, arrays: Mapping[str, Array], target: VectorTarget | None = None, *, threads: int = 1,
    rtol: float | None = 0.0, fence: bool = False,
) -> dict[str, Array]:  # fmt: skip
    """Run compiled code and the interpreter; they must agree (bit for bit unless ``rtol`` says less). Returns the result."""
    compiled = Compiled(kernel, target, threads)
    result, status = compiled.run(arrays, fence=fence)
    assert status == 0
    expected = run_kernel(compiled.kernel, arrays, order="sequential")
    for name, want in expected.items():
        got = result[name]
        if rtol:
            np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol, err_msg=f"{name} of\n{compiled.text}")
        else:
            np.testing.assert_array_equal(got, want, err_msg=f"{name} of\n{compiled.text}")
            if got.dtype.kind == "f":
                known = ~np.isnan(want)
                np.testing.assert_array_equal(np.signbit(got[known]), np.signbit(want[known]))
    return result
