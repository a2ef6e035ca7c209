"""What can go wrong, by name.

Every message says what came, what is possible and what to do. Each class also
descends from the builtin that a caller would expect, so that ``except
ValueError`` works in a script that has never heard of this package::

    MemsegError
    ├── InputError          the call or the data is at fault
    │   ├── SourceError         a file cannot be read, or not as a volume
    │   ├── GeometryError       a box, tile or halo that does not fit
    │   ├── ClassTableError     class ids or names that contradict each other
    │   ├── CheckpointError     a file that is no model of ours
    │   ├── TrainingError       nothing to learn from, or learning that diverged
    │   ├── RunMismatchError    what is on disk belongs to another run
    │   ├── DeviceMemoryError   no tile is small enough for the memory there is
    │   └── SessionError        a session folder that cannot be used so
    │       └── SessionLockedError  somebody else is editing it
    ├── DeviceLostError     the GPU or a worker went away; the work can be resumed
    └── Cancelled           somebody asked to stop; the work can be resumed
"""

from __future__ import annotations

from typing import Any, Self


class MemsegError(Exception):
    """Base of every error that napari-memseg raises on purpose."""

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        """Travel from process to process by class and message, whatever other bases there are."""
        return type(self), self.args


class InputError(MemsegError, ValueError):
    """The call or its input is at fault; nothing was written."""


class SourceError(InputError, OSError):
    """A file or folder cannot be read as the volume it is said to be."""


class GeometryError(InputError):
    """A box, tile, halo or shape is impossible, or does not fit another."""


class ClassTableError(InputError):
    """A class table contradicts itself, or the labels it is used with."""


class CheckpointError(InputError):
    """A file is no checkpoint of ours, or one of another architecture."""


class TrainingError(InputError):
    """There is nothing to learn from, or learning diverged."""


class RunMismatchError(InputError):
    """An unfinished run on disk differs from the one that is asked for."""


class DeviceMemoryError(InputError, MemoryError):
    """What is asked for does not fit into the memory that there is."""


class SessionError(InputError):
    """A session folder is damaged, too new, or belongs to another image."""


class SessionLockedError(SessionError, PermissionError):
    """Another process holds the session; it can only be read here."""


class DeviceLostError(MemsegError, RuntimeError):
    """A GPU or a worker went away. What was finished is kept and can be resumed."""


class Cancelled(MemsegError):
    """A person stopped the work. What was finished is kept and can be resumed."""
