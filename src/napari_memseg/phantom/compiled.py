"""Loops over voxels, compiled when first used and kept on disk for the next time.

numba looks at the age of the file that a loop is in, and not at those of what it calls; so what
was kept is forgotten as soon as any file here is younger.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
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


FOLDER = Path(__file__).parent


def is_kept() -> bool:
    """Whether compiled loops lie here already, so that the first box takes no quarter of a minute."""
    return any((FOLDER / "__pycache__").glob("*.nbi"))


def _forget_old_code() -> None:
    youngest = max(source.stat().st_mtime for source in FOLDER.glob("*.py"))
    for kept in (FOLDER / "__pycache__").glob("*.nb[ic]"):
        with suppress(OSError):  # another process forgets as well, or only root may
            if kept.stat().st_mtime < youngest:
                kept.unlink()


_forget_old_code()
