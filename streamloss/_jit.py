"""The only place with Numba flags.

`kernel` compiles a bare loop; `inlined` compiles a scalar helper that LLVM must
inline into the loops that call it, so that they vectorise; the two bit casts
are what exact arithmetic is built on. No kernel lives here.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit, types
from numba.extending import intrinsic

from streamloss.kernel_cache import KernelCache

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


def kernel(function: F) -> F:
    """Compile a loop over voxels, and keep the machine code on disk.

    A constant that a kernel takes from another module must be defined in a module
    that uses this one, or the kernel is not compiled anew when it changes.
    """
    dispatcher = njit(**_FLAGS)(function)
    # Functions of elsewhere change without `kernel_cache` noticing. Without a JIT
    # (NUMBA_DISABLE_JIT) there is no dispatcher.
    if dispatcher is not function and function.__module__.startswith("streamloss."):
        dispatcher._cache = KernelCache(function)
    return cast(F, dispatcher)


def inlined(function: F) -> F:
    """Compile a scalar helper that is always inlined into its callers, cached with them."""
    return cast(F, njit(**_FLAGS, forceinline=True)(function))


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


# The typing context that Numba passes first is no part of the call.
float_bits = cast(Callable[[float], int], _float_bits)
bits_float = cast(Callable[[int], float], _bits_float)
