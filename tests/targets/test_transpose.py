"""Squares transposed in registers: the shuffles of every width, followed lane by lane."""

from __future__ import annotations

import re

import numpy as np
import pytest

import graphc
from graphc import ops
from graphc.targets.cpu.arithmetic import transpose
from graphc.targets.cpu.llvm_text import VType

SHUFFLE = re.compile(r"shufflevector <\d+ x \w+> (\S+), <\d+ x \w+> (\S+), <\d+ x i32> <(.*)>")


class Machine:
    """Runs the shuffles that a function would hold."""

    def __init__(self, rows: np.ndarray) -> None:
        self.registers = {f"%r{n}": list(row) for n, row in enumerate(rows)}
        self.count = 0

    def emit(self, text: str) -> str:
        found = SHUFFLE.fullmatch(text)
        assert found is not None, text
        both = self.registers[found[1]] + self.registers[found[2]]
        self.count += 1
        name = f"%s{self.count}"
        self.registers[name] = [both[int(lane.split()[1])] for lane in found[3].split(",")]
        return name


@pytest.mark.parametrize("scalar", ["f32", "f64", "i64", "i32"])
@pytest.mark.parametrize("bits", [128, 256, 512])
def test_the_network_transposes(scalar: str, bits: int) -> None:
    lanes = bits // VType(scalar).bits
    square = np.arange(lanes * lanes).reshape(lanes, lanes)
    machine = Machine(square)
    names = transpose(machine, VType(scalar, lanes), [f"%r{n}" for n in range(lanes)])  # type: ignore[arg-type]
    assert np.array_equal([machine.registers[name] for name in names], square.T)
    assert machine.count == lanes * (lanes.bit_length() - 1)  # as few shuffles as any network


@pytest.mark.parametrize("bits", [128, 256])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_transposes_of_every_size_and_type(dtype: str, bits: int) -> None:
    rng = np.random.default_rng(0)
    for shape in [(8, 8), (16, 24), (17, 9), (1, 30), (40, 33)]:
        x = ops.input("x", shape, dtype)
        array = (rng.random(shape) * 100).astype(dtype)
        program = graphc.compile(ops.transpose(x), cache=False, vector_bits=bits)
        assert np.array_equal(program(x=array), array.T)


def test_a_transposed_operand_is_copied_without_gathers() -> None:
    x, w = ops.input("x", (32, 64)), ops.input("w", (48, 64))
    program = graphc.compile(x @ ops.transpose(w), cache=False, threads=1, vector_bits=128)
    text = program.source("llvm")
    assert "shufflevector" in text and "insertelement <4 x float> %" not in text
