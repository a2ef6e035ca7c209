"""The main job once, on a bundled microCT volume, without GUI or GPU.

Human trabecular bone at 19.5 µm (Living Human Digital Library), with its published
mask: three slices of it play the annotator, the rest is what the result is scored
on::

    open ─> annotate 3 slices ─> train ─> segment tile by tile ─> correct ─> evaluate ─> export ─> report
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops

from napari_memseg.annotation.session import Session
from napari_memseg.data import bundled
from napari_memseg.errors import InputError
from napari_memseg.evaluation.metrics import confusion
from napari_memseg.geometry import Box
from napari_memseg.inference.plan import SegmentConfig
from napari_memseg.io.files import atomic_write
from napari_memseg.io.formats import open_volume
from napari_memseg.io.volume import Volume
from napari_memseg.models.classes import ClassTable
from napari_memseg.workflows.child_process import child_process, start_child
from napari_memseg.workflows.export import export
from napari_memseg.workflows.progress import Progress
from napari_memseg.workflows.report import draw_contours, draw_errors, draw_learning, write_report
from napari_memseg.workflows.segment import segment_session
from napari_memseg.workflows.train import TrainJob, train

BONE = 1
ANNOTATED = (30, 80, 130)
"""Slices that the annotator paints whole."""
CORRECTED = 105
"""The slice on which the annotator mends the prediction."""
SHOWN = 55
"""A slice that nobody painted on."""
MEMORY_CEILING_GIB = 1.5
"""What the process that segments may take, with Python and torch in it."""
