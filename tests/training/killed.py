"""A training in a process of its own, to be killed: prints every step, saves every step."""

from __future__ import annotations

import sys

from learning import blocks, net, train_steps

if __name__ == "__main__":
    for step in train_steps(net(), [blocks()], sys.argv[1], steps=12, save_seconds=0, resume=True):
        sys.stdout.write(f"{step.step}\n")
        sys.stdout.flush()
