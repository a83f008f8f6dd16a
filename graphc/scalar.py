"""Scalar primitives: one row a primitive, with its spelling on every target.

A primitive works on scalars of one dtype (exceptions are named by ``signature``). Kernels of the loop IR apply
primitives; ops of the graph are declared over them. Invariant: the NumPy column is the meaning; the others agree with
it, bit for bit for integers and comparisons, within a stated ULP bound for transcendental functions.

``llvm`` is a template for the instruction (``{t}`` the type, ``{0}`` the operands); where it is empty, the CPU target's
vector maths emits the function. ``cuda`` and ``js`` are expression templates; in ``cuda`` ``{f}`` is the suffix "f" for
float32 and "" for float64.

>>> PRIMITIVES["add"].numpy(1, 2), PRIMITIVES["tanh"].cuda
(np.int64(3), 'tanh{f}({0})')
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.types import DType, bool_


@dataclass(frozen=True)
class Primitive:
    """One scalar operation.

    Attributes:
        signature: "same" (operands and result of one dtype), "compare" (result bool), "select" (bool, t, t),
            "cast" (result dtype given by the instruction), "test" (one operand, result bool).
        kinds: dtype kinds it is defined on.
        commutative: whether operands may be exchanged (exactly).
    """

    name: str
    arity: int
    numpy: Callable[..., Any]
    llvm: Mapping[str, str]  # kind -> template
    cuda: str
    js: str
    signature: str = "same"
    kinds: tuple[str, ...] = ("float",)
    commutative: bool = False

    def result(self, *dtypes: DType) -> DType:
        """The result's dtype for operand dtypes (not for "cast")."""
        return bool_ if self.signature in ("compare", "test") else dtypes[-1]


PRIMITIVES: dict[str, Primitive] = {}


def _row(
    name: str, numpy: Callable[..., Any], cuda: str, js: str, *, arity: int = 1, llvm: Mapping[str, str] | None = None,
    signature: str = "same", kinds: str = "float", commutative: bool = False,
) -> None:  # fmt: skip
    kinds_ = tuple(kinds.split())
    PRIMITIVES[name] = Primitive(name, arity, numpy, llvm or {}, cuda, js, signature, kinds_, commutative)


def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*args)

    return wrapped


_ERF = np.vectorize(math.erf, otypes=[np.float64])


def erf(x: Any) -> Any:
    """Gauss error function by the C library in float64, rounded to the operand's dtype (the oracle's erf)."""
    x = np.asarray(x)
    return _ERF(x).astype(x.dtype) if x.size else x.copy()


def sigmoid(x: Any) -> Any:
    """1/(1+exp(-x)) without overflow, evaluated in float64 and rounded."""
    x = np.asarray(x)
    wide = x.astype(np.float64)
    e = np.exp(-np.abs(wide))
    return np.where(wide >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


def _integer_pow(a: Any, b: Any) -> Any:
    return np.power(a, np.maximum(b, 0)) if np.asarray(b).dtype.kind in "iu" else np.power(a, b)


_ARITH = "int uint float"
_ALL = "bool int uint float"
_INT = {"int": "", "uint": ""}


def _arith(float_: str, int_: str) -> dict[str, str]:
    return {
        "float": f"{float_} {{t}} {{0}}, {{1}}",
        "int": f"{int_} {{t}} {{0}}, {{1}}",
        "uint": f"{int_} {{t}} {{0}}, {{1}}",
    }


def _compare(float_: str, signed: str, unsigned: str) -> dict[str, str]:
    return {
        "float": f"fcmp {float_} {{t}} {{0}}, {{1}}",
        "int": f"icmp {signed} {{t}} {{0}}, {{1}}",
        "uint": f"icmp {unsigned} {{t}} {{0}}, {{1}}",
        "bool": f"icmp {unsigned} {{t}} {{0}}, {{1}}",
    }


def _bits(instruction: str) -> dict[str, str]:
    return {kind: f"{instruction} {{t}} {{0}}, {{1}}" for kind in ("bool", "int", "uint")}


_row("add", _quiet(np.add), "({0} + {1})", "({0} + {1})", arity=2, llvm=_arith("fadd", "add"), kinds=_ARITH, commutative=True)
_row("sub", _quiet(np.subtract), "({0} - {1})", "({0} - {1})", arity=2, llvm=_arith("fsub", "sub"), kinds=_ARITH)
_row("mul", _quiet(np.multiply), "({0} * {1})", "({0} * {1})", arity=2, llvm=_arith("fmul", "mul"), kinds=_ARITH, commutative=True)
_row("div", _quiet(np.divide), "({0} / {1})", "({0} / {1})", arity=2, llvm={"float": "fdiv {t} {0}, {1}"})
_row("floordiv", _quiet(np.floor_divide), "graphc_floordiv({0}, {1})", "graphc_floordiv({0}, {1})", arity=2, kinds=_ARITH)
_row("mod", _quiet(np.mod), "graphc_mod({0}, {1})", "graphc_mod({0}, {1})", arity=2, kinds=_ARITH)
_row("pow", _quiet(_integer_pow), "pow{f}({0}, {1})", "graphc_pow({0}, {1})", arity=2)
_row("atan2", np.arctan2, "atan2{f}({0}, {1})", "Math.atan2({0}, {1})", arity=2)
_row("minimum", np.minimum, "graphc_minimum({0}, {1})", "graphc_minimum({0}, {1})", arity=2, kinds=_ARITH, commutative=True)
_row("maximum", np.maximum, "graphc_maximum({0}, {1})", "graphc_maximum({0}, {1})", arity=2, kinds=_ARITH, commutative=True)
_row("copysign", np.copysign, "copysign{f}({0}, {1})", "graphc_copysign({0}, {1})", arity=2)

_row("neg", _quiet(np.negative), "(-{0})", "(-{0})", llvm={"float": "fneg {t} {0}", "int": "sub {t} zeroinitializer, {0}", "uint": "sub {t} zeroinitializer, {0}"}, kinds=_ARITH)  # fmt: skip
_row("abs", _quiet(np.abs), "graphc_abs({0})", "graphc_abs({0})", kinds=_ARITH)
_row("sign", np.sign, "graphc_sign({0})", "graphc_sign({0})", kinds=_ARITH)
_row("exp", _quiet(np.exp), "exp{f}({0})", "Math.exp({0})")
_row("log", _quiet(np.log), "log{f}({0})", "Math.log({0})")
_row("log1p", _quiet(np.log1p), "log1p{f}({0})", "Math.log1p({0})")
_row("expm1", _quiet(np.expm1), "expm1{f}({0})", "Math.expm1({0})")
_row("sqrt", _quiet(np.sqrt), "sqrt{f}({0})", "Math.sqrt({0})")
_row("tanh", np.tanh, "tanh{f}({0})", "Math.tanh({0})")
_row("sigmoid", _quiet(sigmoid), "graphc_sigmoid({0})", "graphc_sigmoid({0})")
_row("erf", erf, "erf{f}({0})", "graphc_erf({0})")
for _name, _np in (("sin", np.sin), ("cos", np.cos), ("tan", np.tan), ("sinh", np.sinh), ("cosh", np.cosh),
                   ("asin", np.arcsin), ("acos", np.arccos), ("atan", np.arctan)):  # fmt: skip
    _row(_name, _quiet(_np), _name + "{f}({0})", f"Math.{_name}({{0}})")
_row("floor", np.floor, "floor{f}({0})", "Math.floor({0})")
_row("ceil", np.ceil, "ceil{f}({0})", "Math.ceil({0})")
_row("trunc", np.trunc, "trunc{f}({0})", "Math.trunc({0})")
_row("round", np.round, "rint{f}({0})", "graphc_rint({0})")  # half to even

_row("eq", np.equal, "({0} == {1})", "({0} === {1})", arity=2, llvm=_compare("oeq", "eq", "eq"), signature="compare", kinds=_ALL, commutative=True)  # fmt: skip
_row("ne", np.not_equal, "({0} != {1})", "({0} !== {1})", arity=2, llvm=_compare("une", "ne", "ne"), signature="compare", kinds=_ALL, commutative=True)  # fmt: skip
_row("lt", np.less, "({0} < {1})", "({0} < {1})", arity=2, llvm=_compare("olt", "slt", "ult"), signature="compare", kinds=_ALL)  # fmt: skip
_row("le", np.less_equal, "({0} <= {1})", "({0} <= {1})", arity=2, llvm=_compare("ole", "sle", "ule"), signature="compare", kinds=_ALL)  # fmt: skip
_row("gt", np.greater, "({0} > {1})", "({0} > {1})", arity=2, llvm=_compare("ogt", "sgt", "ugt"), signature="compare", kinds=_ALL)  # fmt: skip
_row("ge", np.greater_equal, "({0} >= {1})", "({0} >= {1})", arity=2, llvm=_compare("oge", "sge", "uge"), signature="compare", kinds=_ALL)  # fmt: skip
_row("isnan", np.isnan, "isnan({0})", "Number.isNaN({0})", llvm={"float": "fcmp uno {t} {0}, {0}"}, signature="test")
_row("isfinite", np.isfinite, "isfinite({0})", "Number.isFinite({0})", signature="test")

_row("and", np.bitwise_and, "({0} & {1})", "({0} & {1})", arity=2, llvm=_bits("and"), kinds="bool int uint", commutative=True)
_row("or", np.bitwise_or, "({0} | {1})", "({0} | {1})", arity=2, llvm=_bits("or"), kinds="bool int uint", commutative=True)
_row("xor", np.bitwise_xor, "({0} ^ {1})", "({0} ^ {1})", arity=2, llvm=_bits("xor"), kinds="bool int uint", commutative=True)
_row("not", np.invert, "graphc_not({0})", "graphc_not({0})", kinds="bool int uint")
# shift counts are below the width: the DSL masks constants, and Threefry uses constants only
_row("shl", np.left_shift, "({0} << {1})", "({0} << {1})", arity=2, llvm={"int": "shl {t} {0}, {1}", "uint": "shl {t} {0}, {1}"}, kinds="int uint")  # fmt: skip
_row("shr", np.right_shift, "({0} >> {1})", "({0} >>> {1})", arity=2, llvm={"int": "ashr {t} {0}, {1}", "uint": "lshr {t} {0}, {1}"}, kinds="int uint")  # fmt: skip

_row("where", np.where, "({0} ? {1} : {2})", "({0} ? {1} : {2})", arity=3, signature="select", kinds=_ALL)
_row("cast", lambda x: x, "", "", signature="cast", kinds=_ALL)


def cast(value: Any, to: DType) -> Any:
    """The oracle's cast: NumPy's, with float-to-integer saturating and NaN giving 0, as LLVM and CUDA do it here.

    >>> from graphc.types import int32
    >>> int(cast(np.float32(3e9), int32)), int(cast(np.float32("nan"), int32))
    (2147483647, 0)
    """
    array = np.asarray(value)
    if array.dtype.kind == "f" and to.is_integer:
        info = np.iinfo(to.numpy)
        with np.errstate(all="ignore"):
            clipped = np.clip(np.trunc(np.nan_to_num(array.astype(np.float64), nan=0.0)), float(info.min), float(info.max))
            exact = clipped.astype(np.float64)
            result = np.where(exact >= float(info.max), info.max, np.where(exact <= float(info.min), info.min, 0))
            inside = (exact < float(info.max)) & (exact > float(info.min))
            return np.where(inside, np.where(inside, exact, 0).astype(to.numpy), result.astype(to.numpy)).astype(to.numpy)
    with np.errstate(all="ignore"):
        return array.astype(to.numpy)
