"""The kernel level: loop nests over buffers. See :mod:`graphc.loops.ir` for the grammar."""
