import pytest

import toys


@pytest.fixture(scope="session", autouse=True)
def _toys_are_known():
    toys.register()
