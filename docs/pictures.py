"""Make the pictures of the README anew: run the demo, then this with the demo's folder.

napari-memseg demo demo
xvfb-run -a -s "-screen 0 1920x1080x24" python docs/pictures.py demo
"""

import sys
from pathlib import Path

import napari
import numpy as np
from napari.utils.colormaps import DirectLabelColormap
from qtpy.QtWidgets import QApplication

from napari_memseg.io.formats import open_volume

demo = Path(sys.argv[1])
pair = demo / "export" / "image.ome.zarr"
viewer = napari.Viewer(title="napari-memseg demo", ndisplay=2)
viewer.window.resize(1280, 800)
bone = viewer.open(str(pair), plugin="napari-memseg")[0]
labels = open_volume(f"{pair}::labels/corrected")
viewer.add_labels(
    np.asarray(labels.levels[0]),
    name="corrected labels",
    scale=bone.scale,
    units=bone.units,
    axis_labels=bone.axis_labels,
    opacity=0.45,
    colormap=DirectLabelColormap(color_dict={None: "transparent", 0: "transparent", 1: "#ee6677"}),
)
viewer.dims.set_current_step(0, 55)
for _ in range(20):
    QApplication.processEvents()
viewer.screenshot(str(Path(__file__).parent / "images" / "demo.png"), canvas_only=False, flash=False)
viewer.close()
