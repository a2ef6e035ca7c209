"""Tell a file that holds no image at all, whatever it is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_memseg.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

_POINTER = b"version https://git-lfs.github.com/spec/"


def check_content(path: Path) -> None:
    """Refuse an empty file, and one that only points to where the content is.

    Raises
    ------
    SourceError
        If it is one of these, or cannot be opened.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_POINTER))
    except OSError as error:
        raise SourceError(
            f"{path} cannot be opened ({error.strerror}). Check that it is a file that you may read."
        ) from error
    if not head:
        raise SourceError(f"{path} is empty: 0 bytes. Copy it again from where it came.")
    if head == _POINTER:
        raise SourceError(
            f"{path} is a Git LFS pointer, a few lines that stand for the image. "
            "Fetch the image itself with `git lfs pull` in its repository."
        )
