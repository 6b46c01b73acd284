"""A row of float32 numbers that compiled code keeps in vector registers, and the arithmetic a scan needs on it.

numba vectorises short inner loops only behind checks that cost more than the loops; a type of its own, with its
operations written in LLVM's terms, needs none, on any processor. Knows nothing about scans.
"""

from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.core.datamodel import PrimitiveModel, register_default
from numba.extending import intrinsic

LANES = 32  # two registers of AVX-512, four of AVX2, eight of NEON

_F32, _I32, _I16 = ir.FloatType(), ir.IntType(32), ir.IntType(16)
_ROW, _INTS, _SHORTS = (ir.VectorType(t, LANES) for t in (_F32, _I32, _I16))

LOG2E = 1.4426950408889634
_LN2 = 0.6931471805599453
_SMALLEST = -126.0  # exponent of two of a normal float32
# Minimax fits of the relative error (Lawson's iteration, float64): (expm1(r) - r)/r² on |r| ≤ ln2/2, to 1.4e-8 of
# expm1; (2^r - 1)/r on |r| ≤ 1/2, to 1.1e-8; log1p(e)/e on 0..1, to 3e-8.
_EXPM1 = (0.5, 0.1666654348373413, 0.04166628047823906, 0.008366577327251434, 0.0013946439139544964)
_EXP2M1 = (
    *(0.6931471824645996, 0.24022649228572845, 0.05550357326865196),
    *(0.009618237614631653, 0.0013390735257416964, 0.00015403512225020677),
)
_LOG1P = (
    *(0.9999999403953552, -0.4999949336051941, 0.3331909775733948, -0.2484298199415207, 0.19106008112430573),
    *(-0.13663245737552643, 0.07822594791650772, -0.029505228623747826, 0.005232690833508968),
)
# Added to a float32 of at most 2^22 it rounds it to a whole number, which then, plus the exponent's bias of 127,
# is the sum's lowest bits.
_ROUNDING = 1.5 * 2**23 + 127


class Row(types.Type):
    """`LANES` float32 numbers."""

    def __init__(self) -> None:
        super().__init__(name=f"Row{LANES}")


row = Row()


@register_default(Row)
class _RowModel(PrimitiveModel):
    def __init__(self, manager, kind) -> None:
        super().__init__(manager, kind, _ROW)


def _constant(value: float, kind: ir.VectorType = _ROW) -> ir.Constant:
    return ir.Constant(kind, [value] * LANES)


def _call(builder, operation: str, *arguments):
    """One of LLVM's own functions of floating-point vectors."""
    kind = ir.FunctionType(_ROW, [_ROW] * len(arguments))
    name = f"llvm.{operation}.v{LANES}f32"
    return builder.call(get_or_insert_function(builder.module, kind, name), arguments)


def _fma(builder, a, b, c):
    return _call(builder, "fmuladd", a, b, c)


def _horner(builder, x, coefficients):
    total = _constant(coefficients[-1])
    for c in coefficients[-2::-1]:
        total = _fma(builder, total, x, _constant(c))
    return total


def _at_least(builder, x, limit):
    """max(x, limit), a NaN staying one."""
    return builder.select(builder.fcmp_ordered("<", x, _constant(limit)), _constant(limit), x)


def _power(builder, shifted):
    """(k, 2^k) from k + _ROUNDING."""
    bits = builder.shl(builder.bitcast(shifted, _INTS), _constant(23, _INTS))
    return builder.fsub(shifted, _constant(_ROUNDING)), builder.bitcast(bits, _ROW)


def _address(context, builder, signature, arguments, vector):
    """Of element `index` of a one-dimensional C array, as a pointer to a vector."""
    array_type = signature.args[0]
    array = context.make_array(array_type)(context, builder, arguments[0])
    return builder.bitcast(builder.gep(array.data, [arguments[1]]), vector.as_pointer())


@intrinsic
def load(typing_context, array, index):
    """array[index : index + LANES] as a Row; float32, or int16 holding bfloat16. Nothing checks the bounds."""
    half = array.dtype == types.int16

    def build(context, builder, signature, arguments):
        address = _address(context, builder, signature, arguments, _SHORTS if half else _ROW)
        value = builder.load(address)
        value.align = 2 if half else 4
        if not half:
            return value
        return builder.bitcast(builder.shl(builder.zext(value, _INTS), _constant(16, _INTS)), _ROW)

    return row(array, types.intp), build


@intrinsic
def store(typing_context, array, index, value):
    """array[index : index + LANES] = value, rounded to nearest even for int16 holding bfloat16 (no NaN)."""
    half = array.dtype == types.int16

    def build(context, builder, signature, arguments):
        value = arguments[2]
        if half:
            bits = builder.bitcast(value, _INTS)
            odd = builder.and_(builder.lshr(bits, _constant(16, _INTS)), _constant(1, _INTS))
            bits = builder.add(builder.add(bits, _constant(0x7FFF, _INTS)), odd)
            value = builder.trunc(builder.lshr(bits, _constant(16, _INTS)), _SHORTS)
        address = _address(context, builder, signature, arguments, _SHORTS if half else _ROW)
        builder.store(value, address).align = 2 if half else 4
        return context.get_dummy_value()

    return types.void(array, types.intp, row), build


@intrinsic
def zero(typing_context):
    """A Row of zeros."""
    return row(), lambda context, builder, signature, arguments: _constant(0.0)


@intrinsic
def scale(typing_context, a, number):
    """a · number, number a float32."""

    def build(context, builder, signature, arguments):
        return builder.fmul(arguments[0], _splat(builder, arguments[1]))

    return row(row, types.float32), build


@intrinsic
def scale_add(typing_context, a, number, b):
    """a · number + b, number a float32."""

    def build(context, builder, signature, arguments):
        return _fma(builder, arguments[0], _splat(builder, arguments[1]), arguments[2])

    return row(row, types.float32, row), build


@intrinsic
def multiply(typing_context, a, b):
    """a · b, number by number."""
    return row(row, row), lambda context, builder, signature, arguments: builder.fmul(*arguments)


@intrinsic
def add(typing_context, a, b):
    """a + b."""
    return row(row, row), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@intrinsic
def advance(typing_context, h, exponent, x):
    """2^exponent h + x for exponent ≤ 0, exact to rounding for decays near 1 too."""

    def build(context, builder, signature, arguments):
        h, exponent, x = arguments
        exponent = _at_least(builder, exponent, _SMALLEST)
        k, power = _power(builder, builder.fadd(exponent, _constant(_ROUNDING)))
        r = builder.fsub(exponent, k)
        rate = builder.fmul(r, _horner(builder, r, _EXP2M1))
        # Near 1 the power is 1 and the state changes by its rate: a rounded decay would bias a long sum.
        h = builder.fmul(h, power)
        return builder.fadd(h, _fma(builder, h, rate, x))

    return row(row, row, row), build


@intrinsic
def softplus(typing_context, x):
    """log(1 + exp(x)), relatively exact to a few units in the last place for small results too."""

    def build(context, builder, signature, arguments):
        (x,) = arguments
        negative = builder.select(builder.fcmp_ordered(">", x, _constant(0.0)), builder.fneg(x), x)
        negative = _at_least(builder, negative, _SMALLEST * _LN2)
        k, power = _power(builder, _fma(builder, negative, _constant(LOG2E), _constant(_ROUNDING)))
        r = _fma(builder, k, _constant(-_LN2), negative)
        q = _fma(builder, builder.fmul(r, r), _horner(builder, r, _EXPM1), r)
        e = _fma(builder, power, q, power)  # exp(-|x|)
        return _fma(builder, e, _horner(builder, e, _LOG1P), _at_least(builder, x, 0.0))

    return row(row), build


def _splat(builder, number):
    single = builder.insert_element(ir.Constant(_ROW, ir.Undefined), number, ir.Constant(_I32, 0))
    return builder.shuffle_vector(single, single, ir.Constant(_INTS, [0] * LANES))
