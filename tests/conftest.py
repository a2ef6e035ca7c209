"""What all tests share: hypothesis without a stopwatch, and viewer tests only where there is a viewer."""

import atexit
import os
import shutil
import signal
import tempfile
from importlib.util import find_spec

from hypothesis import settings

os.environ["NAPARI_CONFIG"] = ""  # no preferences of whoever runs the tests, and none written for them

_cache = tempfile.mkdtemp(prefix="memseg-cache-")
os.environ["XDG_CACHE_HOME"] = _cache  # what is measured here is remembered for nobody
atexit.register(shutil.rmtree, _cache, ignore_errors=True)

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background job, in which Ctrl+C is nothing
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

collect_ignore_glob = [] if find_spec("napari") else ["widgets/*"]
