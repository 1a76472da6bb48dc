"""Memory that is freed stays with a command."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from featviz.cli import allocator

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
FAULTS = """
import resource, sys, torch
from featviz.cli.allocator import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
for _ in range(25):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word: str, **settings: str) -> tuple[bool, int]:
    """Whether memory is kept, and how many pages the system gave for five tensors of 64 MiB."""
    names = allocator._SETTINGS
    environment = {k: v for k, v in os.environ.items() if k not in names} | settings
    command = [sys.executable, "-c", FAULTS, word]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    kept, pages = map(int, result.stdout.split())
    return bool(kept), pages


@needs_glibc
def test_freed_memory_is_not_given_back() -> None:
    kept, pages = faults("keep")
    assert kept
    assert pages < 100
    assert faults("leave")[1] > 100


@needs_glibc
def test_settings_of_the_user_stay() -> None:
    kept, pages = faults("keep", MALLOC_TRIM_THRESHOLD_="100000")
    assert not kept
    assert pages > 100


def test_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not allocator.keep_freed_memory()
