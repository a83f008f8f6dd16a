"""Kernels as lowering makes them, as text with sizes M, N, K to fill in, and random arrays for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.loops.ir import Kernel
from graphc.loops.parse import parse_kernel

TEXTS: dict[str, str] = {}

TEXTS["matmul"] = """
kernel mm(in x: f32[{M}, {K}], in w: f32[{K}, {N}], in b: f32[{N}], out y: f32[{M}, {N}]) {{
  for i in {M} {{
    for j in {N} {{
      acc %a: f32 = add
      for k in {K} {{
        %0 = load x[i, k]
        %1 = load w[k, j]
        %2 = mul(%0, %1)
        %a add= %2
      }}
      %3 = value %a
      %4 = load b[j]
      %5 = add(%3, %4)
      store y[i, j] = %5
    }}
  }}
}}
"""

TEXTS["matmul_transposed"] = """
kernel mm(in x: f32[{M}, {K}], in w: f32[{N}, {K}], in b: f32[{N}], out y: f32[{M}, {N}]) {{
  for i in {M} {{
    for j in {N} {{
      acc %a: f32 = add
      for k in {K} {{
        %0 = load x[i, k]
        %1 = load w[j, k]
        %2 = mul(%0, %1)
        %a add= %2
      }}
      %3 = value %a
      %4 = load b[j]
      %5 = add(%3, %4)
      store y[i, j] = %5
    }}
  }}
}}
"""

TEXTS["softmax_rows"] = """
kernel sm(in x: f32[{M}, {N}], out y: f32[{M}, {N}]) {{
  for i in {M} {{
    acc %a: f32 = maximum
    for k in {N} {{
      %0 = load x[i, k]
      %a maximum= %0
    }}
    %m = value %a
    acc %s: f32 = add
    for k2 in {N} {{
      %1 = load x[i, k2]
      %2 = sub(%1,%m)
      %3 = exp(%2)
      %s add= %3
    }}
    %t = value %s
    for j in {N} {{
      %4 = load x[i, j]
      %5 = sub(%4,%m)
      %6 = exp(%5)
      %7 = div(%6,%t)
      store y[i, j] = %7
    }}
  }}
}}
"""

TEXTS["softmax_columns"] = """
kernel sm(in x: f32[{N}, {M}], out y: f32[{N}, {M}]) {{
  for i in {M} {{
    acc %a: f32 = maximum
    for k in {N} {{
      %0 = load x[k, i]
      %a maximum= %0
    }}
    %m = value %a
    acc %s: f32 = add
    for k2 in {N} {{
      %1 = load x[k2, i]
      %2 = sub(%1,%m)
      %3 = exp(%2)
      %s add= %3
    }}
    %t = value %s
    for j in {N} {{
      %4 = load x[j, i]
      %5 = sub(%4,%m)
      %6 = exp(%5)
      %7 = div(%6,%t)
      store y[j, i] = %7
    }}
  }}
}}
"""

TEXTS["pointwise"] = """
kernel pw(in x: f32[{M}, {N}], in z: f32[{M}, {N}], in l: f32, out y: f32[{M}, {N}]) {{
  %l = load l[]
  %p = exp(%l)
  for i in {M} {{
    for j in {N} {{
      %0 = load x[i, j]
      %1 = load z[i, j]
      %2 = add(%0, %1)
      %3 = mul(%2,%p)
      store y[i, j] = %3
    }}
  }}
}}
"""

TEXTS["broadcast"] = """
kernel bias(in x: f32[{M}, {N}], in b: f32[{N}], in c: f32[{M}], out y: f32[{M}, {N}]) {{
  for i in {M} {{
    %c = load c[i]
    %d = exp(%c)
    for j in {N} {{
      %0 = load x[i, j]
      %1 = load b[j]
      %2 = add(%0, %1)
      %3 = mul(%2,%d)
      store y[i, j] = %3
    }}
  }}
}}
"""

TEXTS["transpose"] = """
kernel tr(in x: f32[{N}, {M}], out y: f32[{M}, {N}]) {{
  for i in {M} {{
    for j in {N} {{
      %0 = load x[j, i]
      store y[i, j] = %0
    }}
  }}
}}
"""

TEXTS["column_sum"] = """
kernel cs(in x: f32[{M}, {N}], out y: f32[{N}]) {{
  for j in {N} {{
    acc %a: f32 = add
    for i in {M} {{
      %0 = load x[i, j]
      %a add= %0
    }}
    %m = value %a
    store y[j] = %m
  }}
}}
"""

TEXTS["total"] = """
kernel cs(in x: f32[{M}, {N}], out y: f32[]) {{
  acc %a: f32 = add
  for i in {M} {{
    for j in {N} {{
      %0 = load x[i, j]
      %a add= %0
    }}
  }}
  %m = value %a
  store y[] = %m
}}
"""

TEXTS["running_sum_columns"] = """
kernel cs(in x: f32[{M}, {N}], out y: f32[{M}, {N}]) {{
  for j in {N} {{
    acc %a: f32 = add
    for i in {M} {{
      %0 = load x[i, j]
      %a add= %0
      %m = value %a
      store y[i, j] = %m
    }}
  }}
}}
"""

TEXTS["running_sum_rows"] = """
kernel cs(in x: f32[{N}, {M}], out y: f32[{N}, {M}]) {{
  for j in {N} {{
    acc %a: f32 = add
    for i in {M} {{
      %0 = load x[j, i]
      %a add= %0
      %m = value %a
      store y[j, i] = %m
    }}
  }}
}}
"""

TEXTS["scatter_add"] = """
kernel sc(in o: f32[{M}, {N}], in q: i32[9], in u: f32[9, {N}], out y: f32[{M}, {N}]) {{
  for i in {M} {{
    for j in {N} {{
      %v0 = load o[i, j]
      store y[i, j] = %v0
    }}
  }}
  for i in 9 {{
    for j in {N} {{
      %v0 = load q[i]
      %g = guard %v0 < {M} site 0
      %v1 = load u[i, j]
      store y[%g, j] += %v1
    }}
  }}
}}
"""

TEXTS["batched_matmul"] = """
kernel bmm(in x: f32[2, 3, {M}, {K}], in w: f32[2, 3, {K}, {N}], out y: f32[2, 3, {M}, {N}]) {{
  for b in 2 {{
    for c in 3 {{
      for i in {M} {{
        for j in {N} {{
          acc %a: f32 = add
          for k in {K} {{
            %0 = load x[b, c, i, k]
            %1 = load w[b, c, k, j]
            %2 = mul(%0, %1)
            %a add= %2
          }}
          %3 = value %a
          store y[b, c, i, j] = %3
        }}
      }}
    }}
  }}
}}
"""

TEXTS["divided_by_sum"] = """
kernel divided(in x: f32[{N}], out y: f32[{N}]) {{
  acc %a: f32 = add
  for k in {N} {{
    %0 = load x[k]
    %a add= %0
  }}
  %1 = value %a
  for i in {N} {{
    %2 = load x[i]
    %3 = div(%2, %1)
    store y[i] = %3
  }}
}}
"""

TEXTS["in_place"] = """
kernel step(inout w: f32[{M},{N}], in g: f32[{M},{N}], in rate: f32) {{
  %r = load rate[]
  for i in {M} {{
    for j in {N} {{
      %0 = load w[i, j]
      %1 = load g[i, j]
      %2 = mul(%r, %1)
      %3 = sub(%0, %2)
      store w[i, j] = %3
    }}
  }}
}}
"""

TEXTS["concatenate"] = """
kernel joined(in p: f32[{M},{N}], in q: f32[{M},1], out y: f32[{M},{N}+1]) {{
  for i in {M} {{
    for j in {N} {{
      %v0 = load p[i, j]
      store y[i, j] = %v0
    }}
  }}
  for i in {M} {{
    for j in 1 {{
      %v0 = load q[i, j]
      store y[i, j+{N}] = %v0
    }}
  }}
}}
""".replace("{N}+1]", "{N1}]")


def sample(name: str, m: int, n: int, k: int = 3) -> Kernel:
    """The kernel of a name for given sizes."""
    return parse_kernel(TEXTS[name].format(M=m, N=n, K=k, N1=n + 1))


def random_arrays(kernel: Kernel, seed: int = 0, below: int = 1) -> dict[str, Any]:
    """An array for every parameter that the kernel reads; integers are below ``below``, floats away from zero."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for p in kernel.params:
        if p.access == "out":
            continue
        made = rng.uniform(0.5, 1.5, p.shape) if p.dtype.is_float else rng.integers(-below, below, p.shape)
        arrays[p.name] = np.asarray(made).astype(p.dtype.numpy)
    return arrays
