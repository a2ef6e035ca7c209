"""Loops over voxels, compiled when first used and kept on disk for the next time."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

F = TypeVar("F", bound="Callable[..., Any]")


def compiled(function: F) -> F:
    """Compile a function of numbers and arrays; other threads run while it does.

    Floating point stays as written (no ``fastmath``): a voxel is the same whatever is computed beside it.
    """
    return cast("F", njit(cache=True, nogil=True, error_model="numpy")(function))
