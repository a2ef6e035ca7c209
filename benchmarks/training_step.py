"""What a training step costs on this CPU, in float32 and in bfloat16 autocast: CPU seconds, one thread.

    python benchmarks/training_step.py

Half a minute.
"""

import statistics
import time

import torch

from napari_memseg.models.classes import ClassTable
from napari_memseg.models.losses import masked_dice_ce
from napari_memseg.models.registry import create_model

RUNS = 5

torch.set_num_threads(1)
model = create_model("small", ClassTable.from_ids([1, 2, 3, 15, 21]), widths=[8, 16, 32, 64, 64])
model.to(memory_format=torch.channels_last_3d)
image = torch.rand(1, 1, 64, 64, 64).to(memory_format=torch.channels_last_3d)
labels = torch.randint(0, 6, (1, 64, 64, 64))
optimizer = torch.optim.AdamW(model.parameters())


def step(*, mixed: bool) -> float:
    """Take one step and return its CPU seconds."""
    began = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        loss = masked_dice_ce(model(image), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.process_time() - began


print("| arithmetic | n | median | lowest | highest |")
print("|---|---|---|---|---|")
for name, mixed in (("float32", False), ("bfloat16 autocast", True)):
    step(mixed=mixed)
    seconds = [step(mixed=mixed) for _ in range(RUNS)]
    print(f"| {name} | {RUNS} | {statistics.median(seconds):.2f} | {min(seconds):.2f} | {max(seconds):.2f} |")
