"""Words of JavaScript for the loop IR's scalars: types, literals, indices, primitives, and the helpers they call.

What enters: one operand, index or primitive. What leaves: a JavaScript expression. Invariant: every float32 result is
rounded by ``Math.fround``; int32 and uint32 wrap (``|0``, ``>>>0``, ``Math.imul``); int64 is a BigInt of 64 bits; bool is
the number 0 or 1; indices are numbers.

>>> from graphc.types import float32, int32
>>> primitive("tanh", ["v0"], float32), primitive("mul", ["a", "b"], int32)
('Math.fround(Math.tanh(v0))', '(Math.imul(a, b) | 0)')
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from graphc.loops.index import Atom, FloorDiv, Index, Mod, Value
from graphc.loops.ir import Bound, Lit
from graphc.scalar import PRIMITIVES
from graphc.targets.cuda import expressions as shared
from graphc.types import DType, bool_

ARRAYS = {
    "bool": "Uint8Array", "i32": "Int32Array", "i64": "BigInt64Array", "u32": "Uint32Array", "f32": "Float32Array",
    "f64": "Float64Array",
}  # fmt: skip
_WRAPPED = {
    "bool": "(+({0}))", "i32": "({0} | 0)", "u32": "({0} >>> 0)", "i64": "BigInt.asIntN(64, {0})", "f32": "Math.fround({0})",
    "f64": "{0}",
}  # fmt: skip
# where JavaScript's operator depends on the type: products of 32 bits lose digits as numbers, >>> shifts in zeros
_TYPED = {
    ("mul", "i32"): "Math.imul({0}, {1})", ("mul", "u32"): "Math.imul({0}, {1})",
    ("shr", "i32"): "({0} >> {1})", ("shr", "i64"): "({0} >> {1})", ("not", "bool"): "(1 - {0})", ("not", "i32"): "(~{0})",
    ("not", "u32"): "(~{0})", ("not", "i64"): "(~{0})",
}  # fmt: skip

HELPERS = {
    "graphc_maximum": "const graphc_maximum = (a, b) => a !== a || a > b ? a : b;",
    "graphc_minimum": "const graphc_minimum = (a, b) => a !== a || a < b ? a : b;",
    "graphc_abs": 'const graphc_abs = a => typeof a === "bigint" ? (a < 0n ? -a : a) : Math.abs(a);',
    "graphc_sign": 'const graphc_sign = a => typeof a === "bigint" ? BigInt(+(a > 0n) - +(a < 0n)) : Math.sign(a);',
    "graphc_negative": "const graphc_negative = a => a < 0 || Object.is(a, -0);",
    "graphc_copysign": "const graphc_copysign = (a, b) => graphc_negative(b) ? -Math.abs(a) : Math.abs(a);",
    "graphc_pow": """\
const graphc_pow = (a, b) => a === 1 || (a === -1 && Math.abs(b) === Infinity) ? 1 : Math.pow(a, b);  // as in C""",
    "graphc_sigmoid": """\
const graphc_sigmoid = a => { const e = Math.exp(-Math.abs(a)); return (a >= 0 ? 1 : e) / (1 + e); };""",
    "graphc_rint": """\
const graphc_rint = a => {  // half to even, and -0 stays
  const low = Math.floor(a), part = a - low;
  if (!(part > 0)) return a;
  const made = part > 0.5 || (part === 0.5 && low % 2 !== 0) ? low + 1 : low;
  return made === 0 && a < 0 ? -0 : made;
};""",
    "graphc_erf": """\
const graphc_erf = a => {  // exp(-a^2) times a series of positive terms: DLMF 7.6.2
  if (a !== a) return a;
  if (Math.abs(a) > 6) return Math.sign(a);
  let term = a, sum = a;
  for (let n = 1; n < 400 && Math.abs(term) > 1e-17 * Math.abs(sum); n++) sum += term *= 2 * a * a / (2 * n + 1);
  return 2 / Math.sqrt(Math.PI) * Math.exp(-a * a) * sum;
};""",
    "graphc_mod": """\
const graphc_mod = (a, b) => {  // the sign is the divisor's; an integer modulo 0 is 0
  if (typeof a === "bigint") { if (b === 0n) return 0n; const r = a % b; return r !== 0n && (r < 0n) !== (b < 0n) ? r + b : r; }
  const r = a % b;
  return r === 0 ? (graphc_negative(b) ? -0 : 0) : (r < 0) !== (b < 0) ? r + b : r;
};""",
    "graphc_floordiv": """\
const graphc_floordiv = (a, b) => {  // rounds down; an integer divided by 0 is 0
  if (typeof a === "bigint") {
    if (b === 0n) return 0n;
    const q = a / b;
    return a % b !== 0n && (a < 0n) !== (b < 0n) ? q - 1n : q;
  }
  if (b === 0) return a / b;
  const r = a % b;
  let q = (a - r) / b;
  if (r !== 0 && (r < 0) !== (b < 0)) q -= 1;
  return q === 0 ? (graphc_negative(a / b) ? -0 : 0) : q - Math.floor(q) > 0.5 ? Math.floor(q) + 1 : Math.floor(q);
};""",
    "graphc_to_i32": "const graphc_to_i32 = a => a !== a ? 0 : Math.trunc(Math.min(Math.max(a, -2147483648), 2147483647));",
    "graphc_to_u32": "const graphc_to_u32 = a => a !== a ? 0 : Math.trunc(Math.min(Math.max(a, 0), 4294967295));",
    "graphc_to_i64": """\
const graphc_to_i64 = a => a !== a ? 0n : a >= 2 ** 63 ? 2n ** 63n - 1n : a <= -(2 ** 63) ? -(2n ** 63n) : BigInt(Math.trunc(a));""",
    "graphc_guard": """\
const graphc_guard = (index, extent, status, site) => {  // a checked index: negative ones count from the end
  const at = Number(index) < 0 ? Number(index) + extent : Number(index);
  if (at >= 0 && at < extent) return at;
  if (status[0] === 0) status[0] = site;
  return 0;
};""",
}


def helpers_used(text: str) -> str:
    """The definitions of the helpers that a text names, and of those that they name."""
    wanted: set[str] = set()
    fresh = {n for n in HELPERS if re.search(rf"\b{n}\b", text)}
    while fresh:
        wanted |= fresh
        fresh = {n for n in HELPERS for w in wanted if re.search(rf"\b{n}\b", HELPERS[w])} - wanted
    return "\n".join(definition for name, definition in HELPERS.items() if name in wanted)


def literal(lit: Lit) -> str:
    """A literal: 0 or 1 for bool, a BigInt for int64.

    >>> from graphc.types import float32, int64
    >>> literal(Lit(float("-inf"), float32)), literal(Lit(3, int64))
    ('-Infinity', '3n')
    """
    dtype, value = lit.dtype, lit.value
    if dtype.kind == "bool":
        return "1" if value else "0"
    if not dtype.is_float:
        text = f"{int(value)}{'n' if dtype.short == 'i64' else ''}"
    else:
        number = float(dtype.numpy.type(value))
        if np.isnan(number):
            return "NaN"
        text = repr(number).replace("inf", "Infinity")
        return f"({text})" if text.startswith("-") and text != "-Infinity" else text
    return f"({text})" if text.startswith("-") else text


def wrapped(text: str, dtype: DType) -> str:
    """An expression rounded or wrapped to a dtype."""
    return _WRAPPED[dtype.short].format(text)


def combine(combiner: str, dtype: DType, left: str, right: str) -> str:
    """``left`` and ``right`` combined; on bool, sum and maximum are "or", product and minimum are "and"."""
    if dtype.kind == "bool":
        combiner = {"add": "or", "maximum": "or", "mul": "and", "minimum": "and"}.get(combiner, combiner)
    return primitive(combiner, [left, right], dtype, dtype)


def primitive(name: str, args: Sequence[str], dtype: DType, source: DType | None = None) -> str:
    """A primitive applied to expressions; ``source`` is the operand's dtype (for casts and comparisons)."""
    operand = source or dtype
    if name == "cast":
        return _cast(args[0], dtype, operand)
    row = PRIMITIVES[name]
    text = _TYPED.get((name, operand.short), row.js).format(*args)
    return wrapped(text, bool_ if row.signature in ("compare", "test") else dtype) if name != "where" else text


def _cast(value: str, to: DType, source: DType) -> str:
    if to == source:
        return value
    if to.kind == "bool":
        return f"(+({value} != 0))"
    if source.is_float and to.is_integer:
        return f"graphc_to_{to.short}({value})"
    if source.short == "i64":
        bits = {"i32": f"BigInt.asIntN(32, {value})", "u32": f"BigInt.asUintN(32, {value})"}.get(to.short, value)
        return wrapped(f"Number({bits})", to)
    return f"BigInt({value})" if to.short == "i64" else wrapped(value, to)


def index_text(index: Index) -> str:
    """An index as arithmetic on numbers.

    >>> from graphc.loops.index import Var
    >>> index_text((Index.of(Var("i", 9)) + 1) // 4)
    'Math.floor((i + 1) / 4)'
    """
    return shared.index_text(index, _atom)


def bounds_text(bounds: Sequence[Bound]) -> str:
    """``0 <= index < extent`` for each bound."""
    return shared.bounds_text(bounds, _atom)


def _atom(atom: Atom) -> str:
    match atom:
        case FloorDiv(base, divisor):
            return f"Math.floor(({index_text(base)}) / {divisor})"
        case Mod(base, divisor) if base.bounds[0] >= 0:
            return f"(({index_text(base)}) % {divisor})"
        case Mod(base, divisor):
            return f"((({index_text(base)}) % {divisor} + {divisor}) % {divisor})"
        case Value(name):
            return shared.value_name(name)
    return atom.name
