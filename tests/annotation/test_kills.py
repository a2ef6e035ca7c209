"""SIGKILL, at any moment: what was acknowledged is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the painter is forked and killed by signal")
def test_twenty_kills_while_a_child_paints_lose_no_acknowledged_stroke(tmp_path):
    done = subprocess.run(
        [sys.executable, str(TESTS / "annotation" / "painter.py"), str(tmp_path / "session"), "20"],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) == 20
    assert all(report["ok"] and report["matches"] for report in reports), reports
    assert all(report["recovered"] for report in reports if report["painted"])
    assert sum(report["painted"] for report in reports) >= 10
    counts = [report["acknowledged"] for report in reports]
    assert counts == sorted(set(counts))
