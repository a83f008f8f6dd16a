"""Benchmarks of graphc and the peers it is measured against.

What enters: a workload's name and its sizes. What leaves: rows of median, spread and ratio, printed or as JSON.
Invariant: everything that one row compares ran in one process after a check that the results agree.
"""
