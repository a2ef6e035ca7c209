"""Train the toy on one pair, telling each step: the process that the tests kill."""

import sys
from pathlib import Path

import toys
from napari_memseg.training.config import TrainConfig
from napari_memseg.workflows.train import train
from napari_memseg.workflows.train_job import TrainJob

toys.register()
image, labels, out = sys.argv[1:]
job = TrainJob(
    pairs=[(image, labels)],
    out=Path(out),
    architecture="toy",
    learning=TrainConfig(steps=6, batch=1, seed=3, threads=1, device="cpu", save_seconds=0),
    resume=True,
)
for step in train(job):
    sys.stdout.write(f"{step.stage} {step.done}\n")
    sys.stdout.flush()
