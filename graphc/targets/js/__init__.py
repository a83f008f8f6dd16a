"""JavaScript: a loop program as one expression that runs in any page or in node, with no dependency.

What enters: plain loops. What leaves: text (:func:`program_source`). Invariant: scalars are spelled by the ``js`` column of
:mod:`graphc.scalar`, and no op's meaning is written here again.
"""

from graphc.targets.js.source import program_source

__all__ = ["program_source"]
