"""Make the name of a file from what a person called something; the name that is shown stays as it was."""

from __future__ import annotations

import re

MOST = 50
"""Letters of a name: with what is added to it, it stays below the 255 bytes of a file system."""
_RESERVED = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)
"""Devices of Windows, whatever ending follows."""


def safe_name(text: str, otherwise: str, *, letters: str = r"\w.-") -> str:
    r"""Return a name that a file can have on every system, and that leads to no other folder.

    Parameters
    ----------
    text : str
        Of a person, or of a file.
    otherwise : str
        The name where no letter is left.
    letters : str
        What stays, as between the brackets of a regular expression; anything else becomes "_".
    """
    name = re.sub(f"[^{letters}]+", "_", text).strip("._")[:MOST] or otherwise
    return f"_{name}" if _RESERVED.fullmatch(name) else name
