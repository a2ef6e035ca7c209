"""Segment a cube in a folder, and say how much memory that took at most."""

import json
import sys
from pathlib import Path

import toys
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.heap import keep_heap
from napari_memseg.inference.resources import peak_rss_gib
from napari_memseg.io.volume import set_cache_bytes
from napari_memseg.workflows.segment import segment

keep_heap()
set_cache_bytes(2**24)  # which the small cube fills as well
toys.register()
folder, side = Path(sys.argv[1]), sys.argv[2]
image, labels = (folder / f"{side}{kind}.ome.zarr" for kind in ("", "-labels"))
config = SegmentConfig(chunk=64, tile=(64, 64, 64), precision="float32", batch=1, threads=1, device="cpu")
for _ in segment(image, labels, folder / "null.safetensors", config):
    pass
sys.stdout.write(json.dumps(int(peak_rss_gib() * 2**30)))
