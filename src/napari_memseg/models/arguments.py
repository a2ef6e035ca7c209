"""What people set of a network, checked: whole numbers in a range, switches."""

from __future__ import annotations

from napari_memseg.errors import InputError


def whole_number(name: str, value: object, low: int, high: int) -> int:
    """Return a whole number of a range.

    Raises
    ------
    InputError
        If it is none, or lies outside.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name}={value!r:.50} is impossible: give a whole number from {low} to {high}.")
    return value


def switch(name: str, value: object) -> bool:
    """Return true or false.

    Raises
    ------
    InputError
        If it is neither.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name}={value!r:.50} is impossible: give true or false.")
    return value
