"""``graphc doctor``: what this machine offers. What enters: nothing. What leaves: a table; nothing on the machine is changed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys

from rich.console import Console
from rich.table import Table

import graphc
from graphc.driver import default_threads
from graphc.errors import GraphcError

PACKAGES = (
    "numpy", "llvmlite", "graphviz", "pygraphviz", "ziamath", "matplotlib", "networkx", "safetensors", "torch", "jax",
    "cuda-core", "nvidia-cuda-nvrtc",
)  # fmt: skip


def run_doctor(out: Console) -> None:
    """Print the table."""
    table = Table(title=f"graphc {graphc.__version__}", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in facts():
        table.add_row(key, value)
    out.print(table)


def facts() -> list[tuple[str, str]]:
    """What the table shows, row by row."""
    from graphc.targets.cpu.host import vector_target
    from graphc.targets.cpu.jit import llvm_version
    from graphc.targets.cpu.object_cache import default_directory

    rows = [("Python", f"{sys.version.split()[0]} on {platform.platform()}")]
    target = vector_target()
    rows.append(
        ("CPU", f"{target.cpu}, {target.bits}-bit vectors, {os.cpu_count()} processors, {default_threads()} used")
    )
    rows.append(("LLVM", llvm_version()))
    rows.append(("object cache", str(default_directory() or "off")))
    for name in PACKAGES:
        try:
            rows.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            rows.append((name, "not installed"))
    rows.append(("Graphviz", _graphviz()))
    rows += _cuda()
    rows.append(
        ("C++ compiler", shutil.which("g++") or shutil.which("clang++") or "none: CUDA source cannot be run on the CPU")
    )
    return rows


def _graphviz() -> str:
    from viz import engine

    try:
        return engine()
    except GraphcError as error:
        return str(error)


def _cuda() -> list[tuple[str, str]]:
    from graphc.targets.cuda.build import toolchains

    rows = [("CUDA compiler", "; ".join(f"{t.name}: {t.detail}" for t in toolchains()))]
    try:
        from graphc.targets.cuda.launch import cuda_device

        rows.append(("CUDA device", str(cuda_device()[1].name)))
    except (ImportError, GraphcError) as error:
        rows.append(("CUDA device", f"none: {str(error).splitlines()[0]}"))
    return rows
