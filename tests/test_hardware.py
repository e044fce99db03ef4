"""Devices and the one rule about bfloat16."""

import subprocess
import sys

import pytest
import torch

from helpers.core.errors import DataError
from helpers.core.profiles import ROOT
from helpers.core.settings import resolve
from helpers.models import hardware


def test_pick_device():
    assert hardware.pick_device("cpu") == "cpu"
    assert hardware.pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(DataError, match="torch sees no GPU"):
            hardware.pick_device("cuda")


def test_bfloat16_asked_of_a_gpu_that_has_none_is_refused_and_auto_does_without(monkeypatch):
    monkeypatch.setattr(hardware, "this_device", lambda _: hardware.CARDS["T4"])
    assert not hardware.wants_bfloat16(resolve(profile="paper").settings)
    with pytest.raises(DataError, match="this GPU has no bfloat16: set precision to 'float32'"):
        hardware.wants_bfloat16(resolve(precision="bfloat16").settings)
    monkeypatch.setattr(hardware, "this_device", lambda _: hardware.CARDS["H100"])
    assert hardware.wants_bfloat16(resolve().settings)


def test_device_facts_come_without_torch_and_without_the_planner():
    """The doctor asks for memory where torch is missing, and nothing imports its own users."""
    code = "import sys; from helpers.models import hardware; assert hardware.memory() > hardware.peak_memory() > 0; "
    code += "users = 'torch', 'helpers.planning', 'helpers.planning.doctor', 'helpers.training'; "
    code += "assert not set(users) & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
