"""Work shared out to threads comes back as if one had done it."""

import threading

import pytest

from lymphinfer.threads import in_order


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_come_in_the_order_of_the_items_whichever_is_done_first(count):
    late = threading.Event()

    def act(item):
        if item == 0 and count > 1:
            assert late.wait(30)
        if item == 1:
            late.set()
        return item * 10

    assert list(in_order(act, range(20), count)) == [item * 10 for item in range(20)]


@pytest.mark.parametrize("count", [1, 3])
def test_no_more_items_are_taken_than_threads_and_one_can_hold(count):
    taken = []

    def items():
        for item in range(50):
            taken.append(item)
            yield item

    for done, _ in enumerate(in_order(lambda item: item, items(), count), 1):
        assert len(taken) <= done + count


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_comes_where_its_result_would_have_and_ends_the_work(count):
    def act(item):
        if item == 3:
            raise ValueError("the fourth")
        return item

    found = []
    with pytest.raises(ValueError, match="the fourth"):
        for result in in_order(act, range(1000), count):
            found.append(result)
    assert found == [0, 1, 2]


def test_one_thread_is_the_caller_s_own():
    assert list(in_order(lambda _: threading.current_thread(), range(3), 1)) == (
        [threading.current_thread()] * 3
    )
    assert threading.current_thread() not in in_order(
        lambda _: threading.current_thread(), range(3), 2
    )
