"""Stages that run beside each other: order, bounds and errors."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from davi.system.pipeline import file_threads, map_ahead


def test_results_come_in_order_and_items_are_drawn_within_the_window() -> None:
    drawn = []

    def items() -> Iterator[int]:
        for number in range(20):
            drawn.append(number)
            yield number

    with ThreadPoolExecutor(4) as executor:
        results = []
        for result in map_ahead(executor, lambda number: 2 * number, items(), window=3):
            results.append(result)
            assert len(drawn) <= len(results) + 3
    assert results == list(range(0, 40, 2))


def test_calls_run_while_the_consumer_works() -> None:
    started = [threading.Event() for _ in range(4)]
    with ThreadPoolExecutor(4) as executor:
        stream = map_ahead(executor, lambda number: started[number].set(), range(4), window=2)
        next(stream)
        # Two more are under way although only one result was asked for.
        assert started[1].wait(10)
        assert started[2].wait(10)
        assert not started[3].is_set()


def test_what_was_begun_is_delivered_before_the_error_of_the_items() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise ValueError("no more")

    with ThreadPoolExecutor(2) as executor:
        stream = map_ahead(executor, str, items(), window=2)
        assert [next(stream) for _ in range(3)] == ["0", "1", "2"]
        with pytest.raises(ValueError, match="no more"):
            next(stream)


def test_an_error_of_a_call_takes_the_place_of_its_result() -> None:
    with ThreadPoolExecutor(2) as executor:
        stream = map_ahead(executor, lambda number: 1 // number, (1, 1, 0, 1), window=3)
        assert [next(stream), next(stream)] == [1, 1]
        with pytest.raises(ZeroDivisionError):
            next(stream)


def test_threads_for_files_compute_with_one_core_and_leave_ours_alone() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with file_threads() as executor:
            assert executor.submit(torch.get_num_threads).result() == 1
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
