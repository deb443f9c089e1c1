"""Calls into libmujoco and reads of its memory that compiled code can make without the interpreter.

numba compiles the step loop (`kernel`), so that no compiler is needed on a user's machine.
"""

import ctypes
import functools
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import mujoco
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, register_jitable

logger = logging.getLogger(__name__)
_Function = TypeVar("_Function", bound=Callable[..., Any])
_FOLDER = Path(__file__).parent
NUM_CONTACTS_OFFSET = 161_576
"""Of `ncon` in the mjData of MuJoCo 3.3.2, the pinned version; every simulation compares it with the bindings' own."""
_SETTINGS: dict[str, Any] = {"nogil": True, "_nrt": False, "no_cfunc_wrapper": True}


def load_int(address: int) -> int:
    """The 32-bit integer at an address."""
    return ctypes.c_int32.from_address(address).value


@functools.cache
def source_stamp(folder: Path = _FOLDER) -> str:
    """Changes with everything that goes into compiled code."""
    paths = sorted(folder.glob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()[:12]


def part(function: _Function) -> _Function:
    """Compile into the compiled functions that call it; from Python it runs as it stands."""
    compilable: _Function = register_jitable(**_SETTINGS)(function)
    return compilable


def compiled(function: _Function) -> _Function:
    """Compile on first use, without the GIL; kept on disk where some cache folder can be written.

    numba's cache only looks at the file that a function stands in: its name there carries the sources of its parts.
    Processes that start at the same time without a cache compile each for itself, and none waits for another.
    """
    function.__qualname__ += f".{source_stamp()}"
    result: Any
    try:
        result = njit(cache=True, **_SETTINGS)(function)
    except RuntimeError:
        logger.warning(
            "numba found no folder to cache in (set NUMBA_CACHE_DIR): %s is compiled anew each time", function.__name__
        )
        result = njit(**_SETTINGS)(function)
    return cast(_Function, result)


def _call(typing_context: Any, address: Any, model: Any, data: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer_type = ir.FunctionType(ir.VoidType(), [ir.IntType(64), ir.IntType(64)]).as_pointer()
        builder.call(builder.inttoptr(args[0], pointer_type), [args[1], args[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


def _load_int32(typing_context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.IntType(32).as_pointer()))

    return types.int32(types.int64), generate


call: Any = intrinsic(_call)
"""In compiled code: call `void f(mjModel*, mjData*)` at an address."""
load_int32: Any = intrinsic(_load_int32)
"""In compiled code: `load_int`."""


@functools.cache
def function_address(name: str) -> int:
    """Address of a function of the libmujoco that the Python bindings use."""
    library = ctypes.CDLL(str(next(Path(mujoco.__file__).parent.glob("libmujoco.*"))))
    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    assert address is not None
    return address
