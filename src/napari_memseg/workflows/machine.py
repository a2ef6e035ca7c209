"""Tell what can be computed here: the device and why it, and the networks that there are."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from napari_memseg.models.device import describe_device
from napari_memseg.models.registry import architectures
from napari_memseg.workflows.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator


def describe_machine(device: str = "auto") -> Iterator[Progress]:
    """Describe the device of that name, and every network.

    Yields
    ------
    Progress
        Once, with ``device`` (a sentence) and ``models`` (rows as ``napari-memseg models`` prints them).

    Raises
    ------
    InputError
        If there is no such device.
    """
    result = {"device": describe_device(device), "models": [asdict(row) for row in architectures()]}
    yield Progress(stage="describe", done=1, total=1, result=result)
