"""Targets: from loop IR to something that runs.

What enters: verified loop IR and a target description. What leaves: machine code, CUDA source or a NumPy result.
Invariant: a target reads loop IR only; no target knows the graph level.
"""
