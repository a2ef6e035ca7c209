import pytest

import toys


@pytest.fixture(scope="session", autouse=True)
def _toys_are_known():
    toys.register()


@pytest.fixture(scope="module")
def _no_flushes():
    """Leave out the flushes of the disk, which take most of the time of a small run and matter to a kill."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield
