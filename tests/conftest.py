"""What all tests share: hypothesis without a stopwatch, and viewer tests only where there is a viewer."""

import os
from importlib.util import find_spec

from hypothesis import settings

os.environ["NAPARI_CONFIG"] = ""  # no preferences of whoever runs the tests, and none written for them

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

collect_ignore_glob = [] if find_spec("napari") else ["widgets/*"]
