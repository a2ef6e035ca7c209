"""Run the demo several times, each in a process of its own: seconds, memory, Dice.

    python benchmarks/demo.py [--runs 3]

About two minutes a run on 2 cores.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--runs", type=int, default=3)
runs = parser.parse_args().runs

facts = []
for number in range(runs):
    with tempfile.TemporaryDirectory() as folder:
        program = Path(sys.executable).with_name("napari-memseg")
        call = [program, "demo", Path(folder) / "demo", "--json"]
        done = subprocess.run(call, check=True, capture_output=True, text=True)
        told = json.loads(done.stdout.splitlines()[-1])
        more = json.loads((Path(folder) / "demo" / "demo.json").read_text())["facts"]
    facts.append({**more, "seconds": told["seconds"], "peak RSS, GiB": told["peak_rss_gib"]})
    print(f"run {number + 1}: {facts[-1]}", file=sys.stderr)

print("| what | n | median | lowest | highest |")
print("|---|---|---|---|---|")
for name in facts[0]:
    values = [row[name] for row in facts]
    print(f"| {name} | {runs} | {statistics.median(values):.4g} | {min(values):.4g} | {max(values):.4g} |")
