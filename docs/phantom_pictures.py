"""Take the pictures of docs/phantom.md.

xvfb-run -a -s "-screen 0 1920x1080x24" python docs/phantom_pictures.py FOLDER

Slices of the presets small easy, normal and hard beside a real one, each in 3D, and the huge one in the
viewer; how long scrolling took and in how much memory is printed.
"""

import sys
from pathlib import Path
from time import monotonic

import matplotlib
import napari
import numpy as np
import psutil
from napari.layers import Layer
from qtpy.QtWidgets import QApplication

import napari_memseg as ms
from napari_memseg.data import bundled
from napari_memseg.geometry import Box
from napari_memseg.widgets.reader import layer
from napari_memseg.widgets.sample_data import _colors

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LEVELS = ("easy", "normal", "hard")


def cuts(image: np.ndarray) -> list[np.ndarray]:
    """Return a slice across the thorax and two along the body, cut to what is of interest."""
    middle = slice(image.shape[1] // 4, -image.shape[1] // 4)
    return [
        image[100, middle, middle],
        image[:, image.shape[1] // 2, middle],
        image[:, middle, image.shape[2] // 2],
    ]


def slices(images: dict[str, np.ndarray], path: Path) -> None:
    """Draw the cuts of each preset, and a real slice beside them."""
    bone = ms.open_volume(bundled("trabecular_bone.ome.tif"))
    figure, rows = plt.subplots(len(images), 4, figsize=(11, 11), width_ratios=(2, 1, 1, 2))
    for axes, (name, image) in zip(rows, images.items(), strict=True):
        for axis, cut in zip(axes, cuts(image), strict=False):
            axis.imshow(cut, cmap="gray", vmin=0, vmax=65535)
        axes[0].set_title(f"synthetic fly, small, {name}", fontsize=9)
    for axes, z in zip(rows, (40, 80, 120), strict=True):
        axes[3].imshow(bone.read(Box((z, 0, 0), (z + 1, 160, 160)))[0], cmap="gray")
        axes[3].set_title("real: human trabecular bone", fontsize=9)
    for axis in rows.flat:
        axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def in_3d(name: str, image: np.ndarray, truth: np.ndarray, folder: Path) -> None:
    """Show image and truth in 3D, beside each other."""
    viewer = napari.Viewer(ndisplay=3, show=True)
    viewer.window.resize(1100, 700)
    viewer.add_image(image, rendering="attenuated_mip", contrast_limits=(15000, 65535), name=f"small {name}")
    labels = viewer.add_labels(truth, colormap=_colors(), name="truth", translate=(0, 0, 150))
    labels.iso_gradient_mode = "smooth"
    viewer.reset_view()
    viewer.scene.camera.angles = (0, 25, 80)
    settle()
    viewer.screenshot(folder / f"phantom-3d-{name}.png", canvas_only=True)
    viewer.close()


def huge(folder: Path) -> None:
    """Scroll the huge one, and say how long that takes and in how much memory."""
    fly = ms.phantom("huge")
    fly.prepare()
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1280, 800)
    data, settings, kind = layer(fly.image, "image", contrast_limits=(0, 65535))
    viewer.add_layer(Layer.create(data, settings, kind))
    data, settings, kind = layer(fly.truth, "labels", opacity=0.4, colormap=_colors())
    viewer.add_layer(Layer.create(data, settings, kind))
    took = []
    for z in np.linspace(2500, 5500, 12):
        began = monotonic()
        viewer.dims.set_point(0, z * fly.voxel_um)
        settle(3)
        took.append(monotonic() - began)
    viewer.dims.set_point(0, 4200 * fly.voxel_um)
    settle()
    viewer.screenshot(folder / "phantom-huge.png", canvas_only=False)
    rss = psutil.Process().memory_info().rss / 2**20
    print(f"scrolling: median {np.median(took):.2f} s, longest {max(took):.2f} s; RSS {rss:.0f} MiB")  # noqa: T201 - what it measured
    viewer.close()


def settle(times: int = 20) -> None:
    """Let Qt draw."""
    for _ in range(times):
        QApplication.processEvents()


def main(folder: Path) -> None:
    """Take all pictures."""
    images = {}
    for name in LEVELS:
        fly = ms.phantom("small", name)
        image, truth = (volume.read(Box.whole(fly.shape)) for volume in (fly.image, fly.truth))
        images[name] = image
        in_3d(name, image, truth, folder)
    slices(images, folder / "phantom-slices.png")
    huge(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
