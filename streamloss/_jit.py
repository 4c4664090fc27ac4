"""The only place with Numba flags.

`kernel` compiles a bare loop; `inlined` compiles a helper that LLVM must inline into
the loops that call it, so that they vectorise; bit casts and the fused multiply-add
are what exact arithmetic is built on. No kernel lives here.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit, types
from numba.core import config
from numba.extending import intrinsic

from streamloss.errors import InvalidInputError
from streamloss.kernel_cache import KernelCache

# Without the compiler a voxel takes microseconds, and bit casts have no counterpart.
if config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise InvalidInputError("kernels must be compiled: unset NUMBA_DISABLE_JIT")

F = TypeVar("F", bound=Callable[..., Any])

# error_model="numpy": the default division check costs 5x in a loop that would
# otherwise vectorise. fastmath and parallel stay off: both would make the bits
# of a result depend on the machine.
_FLAGS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": False,
    "parallel": False,
}


_INLINED: dict[str, Any] = {**_FLAGS, "_nrt": False, "forceinline": True}


def kernel(function: F) -> F:
    """Compile a loop over voxels, and keep the machine code on disk.

    A constant that a kernel takes from another module must be defined in a module
    that uses this one, or the kernel is not compiled anew when it changes.
    """
    dispatcher = njit(**_FLAGS)(function)
    # Functions of elsewhere change without `kernel_cache` noticing.
    if function.__module__.startswith("streamloss."):
        dispatcher._cache = KernelCache(function)
    return cast(F, dispatcher)


def inlined(function: F) -> F:
    """Compile a helper that allocates nothing and is always inlined into its callers.

    Numba counts the references to every slice of an array, which are some twenty atomic
    operations for a tile of voxels. Where nothing is allocated, nothing need be counted.
    """
    return cast(F, njit(**_INLINED)(function))


@intrinsic
def _float_bits(typing_context: Any, value: Any) -> Any:
    """Reinterpret the bits of a float64 as an int64."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.int64))

    return types.int64(types.float64), codegen


@intrinsic
def _bits_float(typing_context: Any, value: Any) -> Any:
    """Reinterpret the bits of an int64 as a float64."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float64))

    return types.float64(types.int64), codegen


@intrinsic
def _fused(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, rounded once."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float64(types.float64, types.float64, types.float64), codegen


@intrinsic
def _use_wide_vectors(typing_context: Any) -> Any:
    """Let the calling kernel or helper use vectors of 512 bits where there are any."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # llvmlite only knows attributes without a value, and writes the others as they are.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.none(), codegen


@intrinsic
def _single_bits(typing_context: Any, value: Any) -> Any:
    """Reinterpret the bits of a float32 as an int32."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.int32))

    return types.int32(types.float32), codegen


@intrinsic
def _ones(typing_context: Any, word: Any) -> Any:
    """Return the number of bits that are set in a uint64, as an int64."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), codegen


# The typing context that Numba passes first is no part of the call.
float_bits = cast(Callable[[float], int], _float_bits)
bits_float = cast(Callable[[int], float], _bits_float)
# IEEE 754 rounds a fused multiply-add correctly, so every machine gives the same bits: those with
# the instruction, since about 2013, at the price of a product, others through the C library.
fused = cast(Callable[[float, float, float], float], _fused)
# LLVM keeps to 256 bits on processors that once lowered their clock for more: with 512, loops over
# float64 take 0.7 to 0.9 of the time on a Xeon of 2023.
use_wide_vectors = cast(Callable[[], None], _use_wide_vectors)
single_bits = cast(Callable[[Any], Any], _single_bits)
ones = cast(Callable[[Any], int], _ones)
