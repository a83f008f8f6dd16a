"""Machine code of graphc's own run time: the thread pool and the native call.

What enters: LLVM IR text that is part of graphc. What leaves: a loaded library. Invariant: it is never unloaded, because
threads may be in it while the interpreter exits.

>>> text = "define i32 @three() {\\n  ret i32 3\\n}"
>>> runtime_library(text, ["three"])["three"] != 0
True
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from graphc.targets.cpu.host import vector_target
from graphc.targets.cpu.jit import LLVM_LOCK, Library, emit_object, llvm_version, load_object
from graphc.targets.cpu.object_cache import ObjectCache, cache_key, default_directory

__all__ = ["made_once", "runtime_library"]

Made = TypeVar("Made")


def made_once(make: Callable[..., Made]) -> Callable[..., Made]:
    """As :func:`functools.cache`; who asks while another thread makes it waits for that one.

    The lock is LLVM's own: making holds it anyway, and one lock cannot wait for itself. What is there is found without
    it, for another thread may hold it through the code generation of a whole program.
    """
    found: dict[Hashable, Made] = {}

    @functools.wraps(make)
    def made(*args: Hashable, **kwargs: Hashable) -> Made:
        key = (args, tuple(sorted(kwargs.items())))
        if key not in found:
            with LLVM_LOCK:
                if key not in found:
                    found[key] = make(*args, **kwargs)
        return found[key]

    return made


def runtime_library(text: str, exports: Sequence[str], symbols: Mapping[str, int] | None = None) -> Library:
    """Machine code of a part of graphc's own run time: from the cache if it is there, and never unloaded."""
    target = vector_target()
    cache = ObjectCache(default_directory())
    key = cache_key("run time", text, target.cpu, target.features, llvm_version())
    data = cache.load(key).data
    if data is None:
        data = emit_object(text, target)
        cache.store(key, data)
    library = load_object(data, exports, symbols)
    library.keep_for_ever()
    return library
