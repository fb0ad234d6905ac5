"""Who does which part of a step, and in what order the parts are added."""

import itertools
import random

import pytest

from last_e.config import cuts
from last_e.events import Beat
from last_e.ranks.fold import Fold, nodes_of, shares
from last_e.ranks.pace import Pace


def tree(parts: int) -> str:
    """How all of them are added, in letters."""
    fold: Fold[str] = Fold(parts, lambda one, other: f"({one}{other})")
    for part in range(parts):
        fold.add((0, part), chr(ord("a") + part))
    return fold.total


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        (1, "a"),
        (2, "(ab)"),
        (3, "((ab)c)"),
        (4, "((ab)(cd))"),
        (6, "(((ab)(cd))(ef))"),
        (7, "(((ab)(cd))((ef)g))"),
        (9, "((((ab)(cd))((ef)(gh)))i)"),
    ],
)
def test_parts_are_added_in_one_tree(parts: int, wanted: str) -> None:
    assert tree(parts) == wanted


@pytest.mark.parametrize("parts", range(1, 20))
def test_the_tree_is_the_same_whoever_adds_what_in_whatever_order(parts: int) -> None:
    chance = random.Random(parts)
    for ranks in range(1, parts + 1):
        partial: list[tuple[tuple[int, int], str]] = []
        for share in shares(parts, ranks):
            fold: Fold[str] = Fold(parts, lambda one, other: f"({one}{other})")
            for part in chance.sample(share, len(share)):
                fold.add((0, part), chr(ord("a") + part))
            assert sorted(fold.nodes) == nodes_of(parts, share)
            partial += fold.nodes.items()
        chance.shuffle(partial)
        together: Fold[str] = Fold(parts, lambda one, other: f"({one}{other})")
        for node, value in partial:
            together.add(node, value)
        assert together.total == tree(parts)


def test_shares_are_neighbours_as_even_as_can_be_and_leave_nothing_out() -> None:
    for parts, ranks in itertools.product(range(1, 12), range(1, 12)):
        found = shares(parts, min(ranks, parts))
        assert [part for share in found for part in share] == list(range(parts))
        assert max(map(len, found)) - min(map(len, found)) <= 1


def test_few_sums_are_kept_while_a_step_goes_on() -> None:
    """Of 64 gradients never more than one a level."""
    fold: Fold[int] = Fold(64, int.__add__)
    most = 0
    for part in range(64):
        fold.add((0, part), part)
        most = max(most, len(fold.nodes))
    assert (fold.total, most) == (sum(range(64)), 6)


def test_a_batch_is_cut_into_even_parts_of_two_clips_at_least() -> None:
    assert [cuts(32, micro) for micro in (None, 32, 31, 16, 5, 1)] == [1, 1, 2, 2, 7, 16]
    assert cuts(3, 2) == 1


# --- how fast each is ----------------------------------------------------------------------------------------------------


def pace(*ranks: list[tuple[int, float]]) -> list[float] | None:
    """Of ranks of which each has said so many clips, in so many seconds of its own, one after the other."""
    found = Pace(len(ranks))
    for rank, said in enumerate(ranks):
        for clips, seconds in said:
            found.hear(rank, Beat(9, clips, seconds))
    return found.rates


def test_a_rank_is_as_fast_as_it_computes_whatever_it_waits() -> None:
    """Its first steps, during which it warms up, do not count, nor looks that found it where it was."""
    assert pace([(0, 0.0), (8, 30.0), (8, 30.0), (48, 34.0)], [(4, 1.0), (44, 9.0)]) == [10.0, 5.0]


def test_a_rank_is_judged_by_what_it_did_of_late() -> None:
    slow = [(step, 1.0 * step) for step in range(1, 100)]
    assert pace([*slow, *((99 + 10 * step, 99.0 + step) for step in range(1, 31))], slow) == [10.0, 1.0]


def test_ranks_gain_what_they_do_not_wait() -> None:
    """As soon as that is known of each; where they wait on GPUs it is not."""
    found, on_gpus = Pace(2), Pace(2)
    for rank, waited in enumerate((1.0, 0.0)):
        assert found.of_one is None
        found.hear(rank, Beat(9, 8, 1.0, 5.0))
        found.hear(rank, Beat(9, 48, 5.0, 5.0 + waited))
        on_gpus.hear(rank, Beat(9, 8, 1.0))
        on_gpus.hear(rank, Beat(9, 48, 5.0))
    assert (found.of_one, on_gpus.of_one) == (1.8, None)


@pytest.mark.parametrize("short", [[], [(8, 1.0)], [(8, 1.0), (16, 3.9)]], ids=str)
def test_of_a_rank_that_has_hardly_begun_nobody_knows(short: list[tuple[int, float]]) -> None:
    assert pace([(8, 1.0), (80, 9.0)], short) is None
