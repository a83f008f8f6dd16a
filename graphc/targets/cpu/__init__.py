"""The CPU target: loop IR -> LLVM IR text with explicit vectors -> machine code.

What enters: verified loop IR. What leaves: LLVM IR text (:mod:`.llvm_text`), whose elementary functions come from
:mod:`.vector_math` and whose machine comes from :mod:`.host`. Invariant: the vector width is a parameter everywhere.
"""
