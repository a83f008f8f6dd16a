"""Words of CUDA C++ for the loop IR's scalars: types, literals, indices, primitives, and the helpers they call.

What enters: one operand, index or primitive. What leaves: a C++ expression. Invariant: the same text means the same to
nvcc, NVRTC and a host compiler with ``cuda_on_cpu.h``, and it means what the NumPy column of :mod:`graphc.scalar` says.

>>> from graphc.types import float32
>>> literal(Lit(0.1, float32)), literal(Lit(float("-inf"), float32))
('0.1f', '__uint_as_float(0xff800000u)')
>>> primitive("tanh", ["v0"], float32)
'tanhf(v0)'
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from graphc.loops.index import Atom, FloorDiv, Index, Mod, Value
from graphc.loops.ir import Bound, Lit, identity
from graphc.scalar import PRIMITIVES
from graphc.types import DType

C_TYPES = {"bool": "bool", "i32": "int", "i64": "long long", "u32": "unsigned", "f32": "float", "f64": "double"}
COMBINE = {
    "add": "{0} + {1}", "mul": "{0} * {1}", "maximum": "graphc_maximum({0}, {1})", "minimum": "graphc_minimum({0}, {1})",
    "and": "{0} & {1}", "or": "{0} | {1}",
}  # fmt: skip

HELPERS = {
    "graphc_maximum": """
// Propagates NaN, unlike fmaxf.
template <class T> __device__ inline T graphc_maximum(T a, T b) { return a != a || a > b ? a : b; }""",
    "graphc_minimum": """
// Propagates NaN, unlike fminf.
template <class T> __device__ inline T graphc_minimum(T a, T b) { return a != a || a < b ? a : b; }""",
    "graphc_abs": """
__device__ inline float graphc_abs(float a) { return fabsf(a); }
__device__ inline double graphc_abs(double a) { return fabs(a); }
template <class T> __device__ inline T graphc_abs(T a) { return a < T(0) ? T(0) - a : a; }""",
    "graphc_sign": """
template <class T> __device__ inline T graphc_sign(T a) { return a != a ? a : T(a > T(0)) - T(a < T(0)); }""",
    "graphc_sigmoid": """
__device__ inline float graphc_sigmoid(float a) { float e = expf(-fabsf(a)); return (a >= 0.0f ? 1.0f : e) / (1.0f + e); }
__device__ inline double graphc_sigmoid(double a) { double e = exp(-fabs(a)); return (a >= 0.0 ? 1.0 : e) / (1.0 + e); }""",
    "graphc_not": """
__device__ inline bool graphc_not(bool a) { return !a; }
template <class T> __device__ inline T graphc_not(T a) { return ~a; }""",
    "graphc_mod": """
// The sign is the divisor's, as in Python; an integer modulo 0 is 0, as in NumPy.
__device__ inline float graphc_mod(float a, float b) {
  float r = fmodf(a, b);
  return r == 0.0f ? copysignf(0.0f, b) : (r < 0.0f) != (b < 0.0f) ? r + b : r;
}
__device__ inline double graphc_mod(double a, double b) {
  double r = fmod(a, b);
  return r == 0.0 ? copysign(0.0, b) : (r < 0.0) != (b < 0.0) ? r + b : r;
}
template <class T> __device__ inline T graphc_mod(T a, T b) {
  if (b == T(0) || b == T(-1)) return b == T(0) || T(-1) < T(0) ? T(0) : a % b;
  T r = a % b;
  return r != T(0) && (r < T(0)) != (b < T(0)) ? r + b : r;
}""",
    "graphc_floordiv": """
// Rounds down, as in Python; an integer divided by 0 is 0, as in NumPy.
__device__ inline float graphc_floordiv(float a, float b) {
  if (b == 0.0f) return a / b;
  float r = fmodf(a, b), q = (a - r) / b;
  if (r != 0.0f && (r < 0.0f) != (b < 0.0f)) q -= 1.0f;
  return q == 0.0f ? copysignf(0.0f, a / b) : q - floorf(q) > 0.5f ? floorf(q) + 1.0f : floorf(q);
}
__device__ inline double graphc_floordiv(double a, double b) {
  if (b == 0.0) return a / b;
  double r = fmod(a, b), q = (a - r) / b;
  if (r != 0.0 && (r < 0.0) != (b < 0.0)) q -= 1.0;
  return q == 0.0 ? copysign(0.0, a / b) : q - floor(q) > 0.5 ? floor(q) + 1.0 : floor(q);
}
template <class T> __device__ inline T graphc_floordiv(T a, T b) {
  if (b == T(0)) return T(0);
  if (T(-1) < T(0) && b == T(-1)) return T(0) - a;  // the smallest number wraps
  T q = a / b;
  return a % b != T(0) && (a < T(0)) != (b < T(0)) ? q - T(1) : q;
}""",
    "graphc_to": """
// Float to integer saturates, and NaN gives 0.
__device__ inline int graphc_to_int(double a) {
  return a != a ? 0 : a >= 2147483647.0 ? 2147483647 : a <= -2147483648.0 ? -2147483647 - 1 : (int)a;
}
__device__ inline unsigned graphc_to_unsigned(double a) {
  return !(a > 0.0) ? 0u : a >= 4294967295.0 ? 4294967295u : (unsigned)a;
}
__device__ inline long long graphc_to_longlong(double a) {
  if (a != a) return 0;
  const long long largest = 9223372036854775807LL;
  return a >= 9223372036854775808.0 ? largest : a <= -9223372036854775808.0 ? -largest - 1 : (long long)a;
}""",
    "graphc_guard": """
// A checked index: negative ones count from the end; a violation leaves the first site's number in *status.
__device__ inline long long graphc_guard(long long index, long long extent, unsigned long long* status, long long site) {
  const long long at = index < 0 ? index + extent : index;
  if (at >= 0 && at < extent) return at;
  atomicCAS(status, 0ull, (unsigned long long)site);
  return 0;
}""",
}
_ORDER = tuple(HELPERS)


def helpers_used(text: str) -> str:
    """The definitions of the helpers that a text names, in a fixed order."""
    names = set(re.findall(r"\bgraphc_(?:to(?=_)|[a-z]+)", text))
    return "\n".join(HELPERS[name].strip("\n") for name in _ORDER if name in names)


def c_type(dtype: DType) -> str:
    """The C++ type of an element."""
    return C_TYPES[dtype.short]


def literal(lit: Lit) -> str:
    """A literal with its type's suffix; NaN and infinities by their bits, which need no header."""
    dtype, value = lit.dtype, lit.value
    if dtype.kind == "bool":
        return "true" if value else "false"
    if dtype.is_float:
        number = dtype.numpy.type(value)
        if not np.isfinite(number):
            bits = int(np.asarray(number).view(np.uint32 if dtype.itemsize == 4 else np.uint64))
            return f"__uint_as_float({bits:#x}u)" if dtype.itemsize == 4 else f"__longlong_as_double({bits:#x}LL)"
        text = str(number)
        text = text if "." in text or "e" in text else f"{text}.0"
        text += "f" if dtype.itemsize == 4 else ""
        return f"({text})" if text.startswith("-") else text
    suffix = {"i32": "", "i64": "LL", "u32": "u"}[dtype.short]
    number_ = int(value)
    if dtype.kind == "int" and number_ == -(2 ** (8 * dtype.itemsize - 1)):
        return f"(-{-(number_ + 1)}{suffix} - 1)"
    return f"({number_}{suffix})" if number_ < 0 else f"{number_}{suffix}"


def neutral(combiner: str, dtype: DType) -> str:
    """The combiner's identity as a literal."""
    return literal(Lit(identity(combiner, dtype), dtype))


def combine(combiner: str, dtype: DType, left: str, right: str) -> str:
    """``left`` and ``right`` combined; on bool, sum and maximum are "or", product and minimum are "and"."""
    if dtype.kind == "bool":
        combiner = {"add": "or", "maximum": "or", "mul": "and", "minimum": "and"}.get(combiner, combiner)
    return COMBINE[combiner].format(left, right)


def primitive(name: str, args: Sequence[str], dtype: DType, source: DType | None = None) -> str:
    """A primitive applied to expressions; ``source`` is the operand's dtype (for a cast)."""
    if name == "cast":
        return _cast(args[0], dtype, source or dtype)
    operand = source or dtype
    text = PRIMITIVES[name].cuda.format(*args, f="f" if operand.short == "f32" else "")
    return text[1:-1] if text.startswith("(") and text.endswith(")") and _closes_at_end(text) else text


def _cast(value: str, to: DType, source: DType) -> str:
    if to.kind == "bool":
        return f"{value} != {literal(Lit(0, source))}" if source.kind != "bool" else value
    if source.is_float and to.is_integer:
        return f"graphc_to_{c_type(to).replace(' ', '')}({value})"
    return value if to == source else f"({c_type(to)}){value}"


def _closes_at_end(text: str) -> bool:
    """Whether the first parenthesis is closed by the last character."""
    depth = 0
    for position, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return position == len(text) - 1
    return False


def index_text(index: Index, spell: Callable[[Atom], str] | None = None) -> str:
    """An index as integer arithmetic; positive terms first. ``spell`` prints an atom (CUDA's spelling where it is None).

    >>> from graphc.loops.index import Var
    >>> index_text(Index.of(Var("bx", 3)) * 16 + Var("tx", 16) - 1)
    'bx * 16 + tx - 1'
    """
    text = ""
    for atom, coef in sorted(index.terms, key=lambda t: t[1] < 0):
        sign = " - " if coef < 0 else " + " if text else ""
        factor = "" if abs(coef) == 1 else f" * {abs(coef)}"
        text += (sign if text else sign.strip()) + (spell or _atom)(atom) + factor
    if index.const or not text:
        text += f" {'-' if index.const < 0 else '+'} {abs(index.const)}" if text else str(index.const)
    return text


def _atom(atom: Atom) -> str:
    match atom:
        case FloorDiv(base, divisor) if base.bounds[0] >= 0:
            return f"({_grouped(base)} / {divisor})"
        case Mod(base, divisor) if base.bounds[0] >= 0:
            return f"({_grouped(base)} % {divisor})"
        case FloorDiv(base, divisor):
            return f"graphc_floordiv<long long>({index_text(base)}, {divisor})"
        case Mod(base, divisor):
            return f"graphc_mod<long long>({index_text(base)}, {divisor})"
        case Value(name):
            return value_name(name)
    return atom.name


def _grouped(index: Index) -> str:
    text = index_text(index)
    return text if text.isidentifier() else f"({text})"


def bounds_text(bounds: Sequence[Bound], spell: Callable[[Atom], str] | None = None) -> str:
    """``0 <= index < extent`` for each bound; what the ranges already show is left out."""
    parts = []
    for bound in bounds:
        low, high = bound.index.bounds
        if low < 0:
            parts.append(f"{index_text(bound.index, spell)} >= 0")
        if high >= bound.extent:
            parts.append(f"{index_text(bound.index, spell)} < {bound.extent}")
    return " && ".join(parts) or "true"


def value_name(name: str) -> str:
    """The C++ name of an IR value: as it is where it looks like v3, else prefixed, so that it cannot hide a buffer.

    >>> value_name("0"), value_name("v3"), value_name("b")
    ('v_0', 'v3', 'v_b')
    """
    return name if re.fullmatch(r"[acgv]\d+(_\w+)?", name) else "v_" + re.sub(r"\W", "_", name)
