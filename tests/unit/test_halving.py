"""Weak points are left early: which goes on, and how far."""

from __future__ import annotations

import random

import pytest

from runner.halving import Halving, next_point


def test_rungs_lie_below_the_last_epoch() -> None:
    assert Halving(5, 3).rungs(120) == [5, 15, 45]
    assert Halving(5, 3).rungs(45) == [5, 15]
    assert Halving(5, 2).rungs(5) == []


def test_one_in_so_many_goes_on_before_others_begin() -> None:
    first = {1: {5: 10.0}, 2: {5: 30.0}}
    assert next_point(first, [5, 15], 3, {1, 2, 3, 4}, at_work=False) == (3, 5)
    three = {**first, 3: {5: 20.0}}
    assert next_point(three, [5, 15], 3, {1, 2, 3, 4}, at_work=False) == (2, 15)
    further = {**three, 2: {5: 30.0, 15: 50.0}}
    assert next_point(further, [5, 15], 3, {1, 2, 3, 4}, at_work=True) == (4, 5)


def test_of_points_that_are_worth_the_same_the_first_goes_on() -> None:
    assert next_point({3: {5: 1.0}, 2: {5: 1.0}, 1: {5: 0.0}}, [5, 15], 3, {1, 2, 3}, at_work=False) == (2, 15)


def test_while_some_run_few_wait_for_more_and_then_the_best_goes_on_all_the_same() -> None:
    two = {1: {5: 10.0}, 2: {5: 30.0}}
    assert next_point(two, [5, 15], 3, {1, 2}, at_work=True) is None
    assert next_point(two, [5, 15], 3, {1, 2}, at_work=False) == (2, 15)
    assert next_point({2: {5: 30.0, 15: 40.0}, 1: {5: 10.0}}, [5, 15], 3, {1, 2}, at_work=False) == (2, None)
    assert next_point({2: {5: 30.0, 15: 40.0}, 1: {5: 10.0}}, [5, 15], 3, {1}, at_work=False) is None


def test_a_weak_point_goes_on_once_weaker_ones_have_come() -> None:
    values = {number: {5: float(worth)} for number, worth in enumerate([50, 60, 40], 1)}
    values[2][15] = 70.0
    assert next_point(values, [5], 3, {1, 3}, at_work=False) is None
    values |= {number: {5: 1.0} for number in (4, 5, 6)}
    assert next_point(values, [5, 15], 3, {1, 3, 4, 5, 6}, at_work=True) == (1, 15)


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 9, 20])
def test_a_search_ends_with_its_best_point_trained_whole_and_most_left_early(count: int, slots: int) -> None:
    """Points whose order is the same at every rung, in any order, some of them failing."""
    rungs, factor, chance = Halving(2, 3).rungs(30), 3, random.Random(count * 10 + slots)
    worth = {number: chance.random() for number in range(1, count + 1)}
    bad = set(chance.sample(sorted(worth), count // 5))
    waiting, values, running, done, failed, epochs = set(worth), {}, [], [], set(), 0
    for _ in range(10_000):
        while len(running) < slots and (found := next_point(values, rungs, factor, waiting, bool(running))):
            waiting.remove(found[0])
            running.append(found)
        if not running:
            break
        number, until = running.pop(chance.randrange(len(running)))
        before = max(values.get(number, {0: 0.0}))
        epochs += (until or 30) - before
        if number in bad and chance.random() < 0.5:
            values.pop(number, None)  # as Line.drop does
            failed.add(number)
            continue
        if until is None:
            done.append(number)
        else:
            values.setdefault(number, {})[until] = worth[number]
            waiting.add(number)
    best = max(worth.keys() - failed, key=worth.__getitem__)
    assert best in done
    assert not running
    if count == 20:
        assert len(done) <= 4
        assert epochs < 20 * 30 / 2
