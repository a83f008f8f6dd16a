"""The workloads, one declarative file each: the models of a course, and the pieces that they are made of.

What enters: nothing. What leaves: :data:`ENTRIES`, by name and in the order of the table. Invariant: listing them makes no array
and imports no framework.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.workload import Entry
from bench.workloads import chain, cnn, gpt, layernorm, lstm, matmul, mlp, pointwise, rnn, softmax, vae
from graphc.errors import GraphError

_FILES = (matmul, pointwise, softmax, layernorm, mlp, cnn, lstm, gpt, vae, rnn, chain)
ENTRIES: dict[str, Entry] = {entry.name: entry for file in _FILES for entry in file.ENTRIES}


def select(words: Sequence[str]) -> list[Entry]:
    """Entries by name or by the first part of it ("matmul" is all products); none means all.

    Raises:
        GraphError: a word that fits no workload.

    >>> [e.name for e in select(["mlp"])]
    ['mlp', 'mlp-inference']
    """
    chosen: dict[str, Entry] = {}
    for word in words:
        found = [e for n, e in ENTRIES.items() if n == word or n.startswith(f"{word}-")]
        if not found:
            raise GraphError(f"unknown workload {word!r}", help=f"choose from {', '.join(ENTRIES)}")
        chosen.update({e.name: e for e in found})
    return list(chosen.values()) if words else list(ENTRIES.values())
