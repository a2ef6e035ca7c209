"""Errors of torch are known by what they mean, not by their type."""

from __future__ import annotations

import pytest
import torch

from napari_memseg.errors import DeviceLostError
from napari_memseg.inference.shortage import is_shortage, raise_if_lost
from trouble import NO_MEMORY

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
ODD = RuntimeError("CUDA error: misaligned address\nCompile with TORCH_USE_CUDA_DSA to enable assertions.")


def waits(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    def synchronize(device):
        if error is not None:
            raise error

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)


@pytest.mark.parametrize("error", NO_MEMORY.values(), ids=NO_MEMORY)
def test_too_little_memory_has_many_names(monkeypatch, error):
    waits(monkeypatch, ODD)
    assert is_shortage(error)
    raise_if_lost(error, GPU)
    assert not is_shortage(ODD)
    assert not is_shortage(ValueError("the label 'out of memory' is unknown"))


@pytest.mark.parametrize("text", ["CUDA error: the launch timed out and was terminated", "GPU is lost"])
def test_a_device_is_lost_by_whatever_name(text):
    with pytest.raises(DeviceLostError):
        raise_if_lost(RuntimeError(text), GPU)
    raise_if_lost(ValueError(text), GPU)


def test_a_gpu_that_cannot_be_waited_for_is_lost_whatever_the_error_said(monkeypatch):
    waits(monkeypatch, ODD)
    with pytest.raises(DeviceLostError, match="misaligned address Compile with") as told:
        raise_if_lost(RuntimeError("the sizes of tensors differ"), GPU)
    assert "\n" not in str(told.value)
    raise_if_lost(RuntimeError("the sizes of tensors differ"), CPU)


def test_one_that_answers_is_not(monkeypatch):
    waits(monkeypatch, None)
    raise_if_lost(RuntimeError("the sizes of tensors differ"), GPU)
