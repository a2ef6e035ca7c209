"""One person edits a session at a time, and everybody else is told who.

The lock is the operating system's: it goes when its process dies, however that
happens. Beside it lies who holds it, which a crash leaves behind::

    .lock           held by filelock while the session is open for editing
    .holder.json    pid, host, user, start: removed when the session is closed

Across machines a lock may not be seen, so a note of another host is believed.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from napari_memseg.annotation.corrections import now_utc
from napari_memseg.annotation.overlay import login_name
from napari_memseg.errors import SessionError, SessionLockedError
from napari_memseg.io.files import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who edits a session."""

    pid: int
    host: str
    user: str
    start: str

    @classmethod
    def me(cls) -> Holder:
        """Return this process."""
        return cls(os.getpid(), socket.gethostname(), login_name(), now_utc())

    @classmethod
    def read(cls, folder: Path) -> Holder | None:
        """Return who left a note in a session folder."""
        try:
            row = json.loads((folder / ".holder.json").read_bytes())
            return cls(int(row["pid"]), str(row["host"]), str(row["user"]), str(row["start"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def __str__(self) -> str:
        return f"process {self.pid} of {self.user} on {self.host}, since {self.start}"


class SessionLock:
    """The right to edit one session folder, held until ``release``.

    Parameters
    ----------
    folder : Path
        Of the session.
    takeover : bool
        Disregard a note of another machine. A living process on this one keeps its lock.

    Raises
    ------
    SessionLockedError
        If somebody else has it, by name.
    SessionError
        If the folder cannot be written to.
    """

    def __init__(self, folder: Path, *, takeover: bool = False) -> None:
        self._note = folder / ".holder.json"
        self._lock = FileLock(folder / ".lock", timeout=0, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout:
            raise _locked(folder, Holder.read(folder), "") from None
        except OSError as error:
            raise SessionError(
                f"{folder} cannot be written to ({error}). Open it with read_only=True, or copy it elsewhere."
            ) from error
        self.holder = Holder.me()
        try:
            self._succeed(folder, takeover)
        except BaseException:
            self._lock.release()
            raise

    def _succeed(self, folder: Path, takeover: bool) -> None:
        """Follow whoever did not close the session, where that is safe."""
        before = Holder.read(folder)
        if before and before.host != self.holder.host and not takeover:
            raise _locked(folder, before, " If that one is gone for certain, open with takeover=True.")
        if before:
            _log.warning("Taking over %s from %s, who did not close it.", folder, before)
        atomic_write(self._note, json.dumps(asdict(self.holder), indent=1).encode())

    @property
    def since(self) -> float:
        """When the lock was taken, as the folder's file system counts time."""
        return self._note.stat().st_mtime

    def release(self) -> None:
        """Let others edit; a second call does nothing."""
        if self._lock.is_locked:
            self._note.unlink(missing_ok=True)
            self._lock.release()


def _locked(folder: Path, holder: Holder | None, more: str) -> SessionLockedError:
    who = holder or "another process"
    return SessionLockedError(
        f"{folder} is being edited by {who}. Close it there, or open it here with read_only=True.{more}"
    )
