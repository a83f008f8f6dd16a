"""The CUDA target: a loop program as one readable ``.cu`` file, built, launched, or executed on a CPU.

- :mod:`schedule` maps a program's plain loop nests to blocks and threads (loop IR to loop IR);
- :mod:`source` prints the mapped program as CUDA C++;
- :mod:`build` makes PTX or a cubin of it through NVRTC or nvcc, neither of which needs a GPU;
- :mod:`on_cpu` compiles the same text with a C++ compiler and runs it on the CPU, with every access checked;
- :mod:`launch` runs it on a GPU.
"""

from graphc.targets.cuda.build import compile_cuda, toolchains
from graphc.targets.cuda.launch import CudaExecutable, compile_program, program_source
from graphc.targets.cuda.on_cpu import KernelFault, run_on_cpu

__all__ = [
    "CudaExecutable", "KernelFault", "compile_cuda", "compile_program", "program_source", "run_on_cpu", "toolchains",
]  # fmt: skip
