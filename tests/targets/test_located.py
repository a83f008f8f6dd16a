"""Debug locations: exact lines through LLVM IR and assembly, and not a byte of other machine code."""

import struct
import sys

import numpy as np
import pytest

import graphc
from graphc.driver import cpu_vector
from graphc.targets.cpu.emit import emit_kernel
from graphc.targets.cpu.jit import emit_object
from graphc.targets.cpu.located import located, located_text


def sections(data):
    """Name -> bytes of the code and constants of an ELF object."""
    assert data[:4] == b"\x7fELF"
    table, size, count, names = struct.unpack_from("<Q", data, 0x28)[0], *struct.unpack_from("<HHH", data, 0x3A)
    heads = [struct.unpack_from("<IIQQQQ", data, table + n * size) for n in range(count)]
    text = data[heads[names][4] : heads[names][4] + heads[names][5]]
    found = {}
    for name, _, flags, _, offset, length in heads:
        if flags & 2:  # allocated: part of the program
            found[text[name : text.index(b"\0", name)].decode()] = data[offset : offset + length]
    return {k: v for k, v in found.items() if not k.startswith(".eh_frame")}


def programs():
    def mlp(threads):
        x, y = graphc.input("x", (24, 37)), graphc.input("y", (24,), dtype="int32")
        net = graphc.nn.Sequential(graphc.nn.Dense(40, activation="gelu"), graphc.nn.Dense(10))
        loss = graphc.losses.cross_entropy(net(x), y)
        updates = graphc.optim.Adam(1e-3).updates(loss, net.parameters())
        return graphc.compile({"loss": loss}, updates=updates, threads=threads)

    def long_lanes(threads):
        x = graphc.input("x", (3, 1003))
        return graphc.compile({"y": graphc.ops.exp(x) / (1 + x * x), "s": graphc.ops.sum(x * x)}, threads=threads)

    def gather(threads):
        t, i = graphc.input("t", (50, 8)), graphc.input("i", (7,), dtype="int32")
        return graphc.compile(graphc.ops.softmax(graphc.ops.take(t, i, axis=0)), threads=threads)

    return {"mlp": mlp, "long lanes": long_lanes, "gather": gather}


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF objects")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", programs())
def test_machine_code_is_the_same_with_locations(name, threads):
    program = programs()[name](threads)
    target = cpu_vector(program.options)
    for kernel in program.loops.kernels.values():
        module = target.module(kernel.name)
        emit_kernel(module, kernel, target, threads)
        with_lines, _, _ = located_text(kernel, target, threads)
        assert "!dbg" in with_lines and "!dbg" not in module.text()
        plain, marked = (sections(emit_object(text, target)) for text in (module.text(), with_lines))
        assert len(plain[".text"]) > 20
        assert plain == marked, kernel.name


def test_the_text_shown_is_the_text_compiled():
    program = programs()["mlp"](2)
    target = cpu_vector(program.options)
    for kernel in program.loops.kernels.values():
        module = target.module(kernel.name)
        emit_kernel(module, kernel, target, 2)
        found = located(kernel, target, 2)
        assert found.llvm == "\n".join(f.text() for f in module.functions)
        assert len(found.llvm_lines) == len(found.llvm.splitlines())
        assert len(found.asm_lines) == len(found.asm.splitlines())


def test_every_line_leads_to_its_statement():
    program = programs()["mlp"](2)
    target = cpu_vector(program.options)
    checked = 0
    for kernel in program.loops.kernels.values():
        found = located(kernel, target, 2)
        loops = found.loops.splitlines()
        for row, line in zip(found.llvm.splitlines(), found.llvm_lines, strict=True):
            said = loops[line - 1] if line else ""
            if "@llvm.fma" in row and "add= " in said:
                checked += 1
                assert line in dict((b, a) for a, b in found.fused)
            if row.strip().startswith("store <") or "@llvm.masked.store" in row:
                assert "store " in said, (row, said)
            if " = load <" in row or "@llvm.masked.load" in row:
                assert " = load " in said or "+=" in said, (row, said)
        for product, total in found.fused:
            assert " = mul(" in loops[product - 1] and " add= " in loops[total - 1]
    assert checked > 20


def test_every_fma_of_a_product_is_its_accumulate_statement():
    a, b = graphc.input("a", (64, 64)), graphc.input("b", (64, 64))
    program = graphc.compile(a @ b, threads=1)
    (kernel,) = program.loops.kernels.values()
    found = located(kernel, cpu_vector(program.options), 1)
    loops = found.loops.splitlines()
    fmas = [
        loops[line - 1].strip() if line else "nothing"
        for row, line in zip(found.asm.splitlines(), found.asm_lines, strict=True)
        if row.strip().startswith(("vfmadd", "fmla", "fmadd"))
    ]
    if not fmas:
        pytest.skip("this machine has no fused multiply-add")
    assert len(fmas) > 8
    assert all(" add= " in said for said in fmas), set(fmas)


def test_compiling_does_not_print_locations(monkeypatch):
    import graphc.targets.cpu.located as module

    def refuse(*_args, **_kwargs):
        raise AssertionError("locations are printed only when asked for")

    monkeypatch.setattr(module, "located_text", refuse)
    x = graphc.input("x", (5,))
    program = graphc.compile(x * 3, cache=False)
    assert np.array_equal(program(x=np.ones(5, np.float32)), np.full(5, 3, np.float32))
    assert "!dbg" not in program.source("llvm")
