"""Data sets that travel with the package, and the one container that training reads.

What enters: named arrays whose first axis counts the examples. What leaves: a :class:`~graphc.data.dataset.Dataset`,
mini-batches as ``{name: array}`` ready to be a program's inputs. Invariant: every order is a pure function of a seed
and an epoch, so that a run continued from a checkpoint sees the batches that the unbroken run would have seen.

>>> from graphc.data import load_digits
>>> train, valid = load_digits(validation=1000, seed=0)
>>> train, valid
(Dataset(4000 examples: image f32[784], label i32[]), Dataset(1000 examples: image f32[784], label i32[]))
"""

from graphc.data.dataset import Dataset
from graphc.data.mnist import load_digits
from graphc.data.toy import blobs, spirals, two_moons, xor

__all__ = ["Dataset", "blobs", "load_digits", "spirals", "two_moons", "xor"]
