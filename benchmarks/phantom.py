"""What the phantom promises, as figures: blocks, labels, difficulty, realism, speed, other animals.

    python benchmarks/phantom.py [PART] [--data DIR] [--json FILE]

Parts:

- blocks: a hundred random blocks made alone equal the whole, byte for byte, with 1 and 16 threads.
- labels: volumes of classes at two voxel sizes; whether the tree of each spiracle is one.
- difficulty: Dice of the best threshold, and of a random forest that learns from scribbles; mode A and B.
- realism: noise, texture, edges, rings and cupping, beside real volumes, where DIR has them
  (``NAME/intensity.ome.tif`` and ``NAME/labels.ome.tif``; see ``figures/realism.py``).
- speed: voxels per second and core, memory, and what compiling saves and costs.
- animals: what a beetle and a larva are made of, beside the fly.

All are of seed 0. Needs scikit-learn (which batchgeneratorsv2 brings along) and, for memory, Linux;
4 GiB. All parts take about a quarter of an hour on 2 cores.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from figures import animals, blocks, difficulty, labels, realism, speed
from figures.table import Row, Table, print_table


def main() -> None:
    """Measure one part, or all, and print each table as it comes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=[*_parts(None), "all"], default="all")
    parser.add_argument("--data", type=Path, help="folder of real volumes, for realism")
    parser.add_argument("--json", type=Path, help="also write the numbers into this file")
    asked = parser.parse_args()
    facts = {}
    for name, measure in _parts(asked.data).items():
        if asked.part in (name, "all"):
            print(f"\n## {name}", flush=True)
            facts[name] = _printed(measure())
    if asked.json:
        asked.json.write_text(json.dumps(facts, indent=1))


def _parts(data: Path | None) -> dict[str, Callable[[], Iterator[Table]]]:
    return {
        "blocks": blocks.measure,
        "labels": labels.measure,
        "difficulty": difficulty.measure,
        "realism": partial(realism.measure, data),
        "speed": speed.measure,
        "animals": animals.measure,
    }


def _printed(tables: Iterator[Table]) -> dict[str, Mapping[str, Row]]:
    found = {}
    for table in tables:
        print_table(table)
        found[table.title] = table.rows
    return found


if __name__ == "__main__":
    main()
