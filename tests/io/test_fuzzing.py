"""Whatever is wrong with a file, a reader answers with a volume or with one of our errors."""

import subprocess
import sys
from pathlib import Path

import pytest

from volumes import FORMATS, SPECIAL

MUTATIONS = 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS | SPECIAL)
def test_nothing_comes_of_a_damaged_file_but_a_volume_or_one_of_our_errors(kind):
    command = [sys.executable, str(Path(__file__).with_name("fuzzing.py")), kind, "0", str(MUTATIONS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
