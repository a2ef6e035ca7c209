"""What all tests share: hypothesis without a stopwatch, and viewer tests only where there is a viewer."""

from importlib.util import find_spec

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

collect_ignore_glob = [] if find_spec("napari") else ["widgets/*"]
