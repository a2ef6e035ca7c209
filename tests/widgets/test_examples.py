"""The example that walks through a whole session by mouse and keys does what it tells."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.qt, pytest.mark.slow]

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE_SECONDS = 900
"""Of a busy machine; it computes for a minute and a half."""


@pytest.mark.parametrize("volume", ["bone", "fly"])
def test_a_whole_session_makes_labels_better_and_loses_nothing(volume, tmp_path):
    command = [sys.executable, str(EXAMPLES / "whole_session.py"), volume, "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["verified"]
    assert facts["dice_second_run"] > facts["dice_first_run"]
    assert facts["export"]
    assert facts["strokes"] > 10
