"""What napari does once for its first labels layer is done in a thread, while the dock is looked at."""

import subprocess
import sys

import pytest

from widgets.hands import close

pytestmark = pytest.mark.qt

FIRST_LAYER = """
import sys
import numpy as np
from numba.core import event
from napari_memseg.widgets.warming import warm_up
warm_up().join()
assert "pandas" in sys.modules
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
before = set(sys.modules)
colors = DirectLabelColormap(color_dict={None: "transparent", 0: "transparent", 1: "red", 2: "blue"})
with event.install_recorder("numba:compile") as compiled:
    Labels(np.zeros((4, 4, 4), np.uint8), colormap=colors)
print(len(compiled.buffer), "pandas" in set(sys.modules) - before)
"""


def test_the_first_labels_layer_compiles_and_imports_nothing_that_takes_long():
    done = subprocess.run([sys.executable, "-c", FIRST_LAYER], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]


def test_the_dock_begins_it_once(open_dock):
    from napari_memseg.widgets.warming import warm_up

    for _ in range(2):
        viewer, _dock = open_dock()
        assert warm_up.cache_info().misses == 1
        close(viewer)
