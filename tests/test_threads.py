"""Threads that compute beside each other."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from featviz.threads import threads


def own_number(_: int) -> tuple[int, int]:
    time.sleep(0.02)  # so that every thread gets some
    return threading.get_ident(), torch.get_num_threads()


def test_each_thread_computes_on_one_core_and_others_as_before() -> None:
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads(3) as pool:
            numbers = list(pool.map(own_number, range(9)))
            assert torch.get_num_threads() == 2
        later = threading.Thread(target=lambda: numbers.append(own_number(0)))
        later.start()
        later.join()
    finally:
        torch.set_num_threads(usual)
    assert len({thread for thread, _ in numbers[:-1]}) == 3
    assert [number for _, number in numbers] == [1] * 9 + [2]


def test_what_has_not_begun_is_dropped_when_the_block_ends() -> None:
    done: list[int] = []

    def work(i: int) -> None:
        time.sleep(0.05)
        done.append(i)

    def begin_and_stop() -> None:
        with threads(1) as pool:
            for i in range(50):
                pool.submit(work, i)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin_and_stop()
    assert len(done) < 10
