"""How much memory is free is asked of the system, and of the container that a process may run in."""

from types import SimpleNamespace

import psutil
import pytest

from napari_memseg import memory
from napari_memseg.memory import free_bytes


def test_something_is_free():
    assert 0 < free_bytes() <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("limit", "taken", "stat", "free"),
    [
        ("1000", "400", "", 600),
        ("1000", "1400", "", 0),
        ("1000", "900", "anon 300\ninactive_file 500\nactive_file 90", 600),
        ("max", "400", "inactive_file 500", 10**6),
        ("", "", "", 10**6),
    ],
)
def test_a_container_may_leave_less_than_the_system_has(tmp_path, monkeypatch, limit, taken, stat, free):
    for name, text in {"memory.max": limit, "memory.current": taken, "memory.stat": stat}.items():
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**6))
    assert free_bytes() == free
