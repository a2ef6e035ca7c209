"""Compare labels with truth, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from napari_memseg.evaluation.metrics import confusion
from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume
from napari_memseg.workflows.progress import Progress
