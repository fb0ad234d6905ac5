"""The learning rate over time, against numbers and formulas written down here."""

import itertools
import math

import pytest

from last_e.config import TrainConfig, TrainingConfig
from last_e.layers import resolve
from last_e.reading import set_layer
from last_e.schedule import learning_rate


def recipe(*assignments: str) -> TrainingConfig:
    layer, problems = set_layer(f"training.{word}" for word in assignments)
    return resolve([layer], TrainConfig, problems, detect=lambda: ("local", "")).config.training


def fine(start: float, end: float) -> list[float]:
    return [start + (end - start) * i / 2000 for i in range(2001)]


def test_the_reference_schedule_passes_its_landmarks():
    config = recipe()
    assert learning_rate(config, 0) == 0.01
    assert learning_rate(config, 2.5) == pytest.approx(0.055)
    assert learning_rate(config, 5) == 0.1
    assert learning_rate(config, 62.5) == pytest.approx((0.1 + 0.0001) / 2)
    assert learning_rate(config, 120) == pytest.approx(0.0001, abs=1e-12)


def test_warm_up_is_a_straight_line():
    config = recipe("warmup_epochs=8", "warmup_start_lr=0.02")
    rates = [learning_rate(config, epoch) for epoch in fine(0, 8)]
    slopes = [b - a for a, b in itertools.pairwise(rates)]
    assert rates[0] == 0.02
    assert rates[-1] == 0.1
    assert slopes == pytest.approx([0.08 / 2000] * 2000, rel=1e-6)


def test_the_cosine_rises_then_falls_without_a_jump():
    config = recipe()
    rising = [learning_rate(config, epoch) for epoch in fine(0, 5)]
    falling = [learning_rate(config, epoch) for epoch in fine(5, 120)]
    assert all(a < b for a, b in itertools.pairwise(rising))
    assert all(a > b for a, b in itertools.pairwise(falling))
    assert max(abs(a - b) for a, b in zip(rising + falling, (rising + falling)[1:])) < 1e-3
    assert learning_rate(config, 5 - 1e-9) == pytest.approx(learning_rate(config, 5))


def test_the_cosine_is_the_formula_of_sgdr():
    config = recipe("epochs=30", "warmup_epochs=4", "lr=0.3", "min_lr=0.02")
    for epoch in fine(4, 30):
        expected = 0.02 + 0.5 * (0.3 - 0.02) * (1 + math.cos(math.pi * (epoch - 4) / 26))
        assert learning_rate(config, epoch) == pytest.approx(expected)


def test_without_warm_up_the_peak_stands_at_the_start():
    assert learning_rate(recipe("warmup_epochs=0"), 0) == 0.1


def test_a_fraction_of_an_epoch_may_warm_up():
    config = recipe("warmup_epochs=0.5", "epochs=1")
    assert learning_rate(config, 0.25) == pytest.approx(0.055)
    assert learning_rate(config, 0.5) == 0.1


def test_multistep_lowers_at_each_milestone():
    config = recipe("scheduler=multistep", "milestones=[10, 20.5]", "gamma=0.5", "warmup_epochs=0", "epochs=30")
    assert [learning_rate(config, epoch) for epoch in (0, 9.99, 10, 20.49, 20.5, 30)] == [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]


def test_multistep_warms_up_first():
    config = recipe("scheduler=multistep", "milestones=[10]", "warmup_epochs=4", "epochs=30")
    assert [learning_rate(config, epoch) for epoch in (0, 2, 4, 9)] == pytest.approx([0.01, 0.055, 0.1, 0.1])
    assert learning_rate(config, 10) == pytest.approx(0.01)


def test_equal_restart_cycles_start_again_at_the_peak():
    config = recipe("scheduler=cosine_warmup_restart", "restart_epochs=10", "restart_mult=1", "warmup_epochs=2", "epochs=50")
    for start in (2, 12, 22, 32):
        assert learning_rate(config, start) == pytest.approx(0.1)
        assert learning_rate(config, start + 5) == pytest.approx((0.1 + 0.0001) / 2)
        assert learning_rate(config, start + 10 - 1e-6) == pytest.approx(0.0001, abs=1e-9)


def test_restart_cycles_grow_by_their_factor():
    config = recipe("scheduler=cosine_warmup_restart", "restart_epochs=5", "restart_mult=2", "warmup_epochs=1", "epochs=50")
    for start, length in ((1, 5), (6, 10), (16, 20)):
        assert learning_rate(config, start) == pytest.approx(0.1)
        assert learning_rate(config, start + length / 2) == pytest.approx((0.1 + 0.0001) / 2)
        assert learning_rate(config, start + length - 1e-6) == pytest.approx(0.0001, abs=1e-9)


def test_constant_ignores_the_warm_up():
    config = recipe("scheduler=constant")
    assert {learning_rate(config, epoch) for epoch in fine(0, 120)} == {0.1}


@pytest.mark.parametrize("scheduler", ["cosine_warmup", "cosine_warmup_restart", "multistep", "constant"])
def test_the_rate_stays_between_its_bounds(scheduler):
    config = recipe(f"scheduler={scheduler}", "restart_epochs=7", "restart_mult=1.5")
    assert all(0.0001 - 1e-12 <= learning_rate(config, epoch) <= 0.1 + 1e-12 for epoch in fine(0, 120))


@pytest.mark.parametrize("epochs", [1, 3, 5])
@pytest.mark.parametrize("scheduler", ["cosine_warmup", "cosine_warmup_restart", "multistep"])
def test_a_run_no_longer_than_its_warm_up_ends_in_it(scheduler, epochs):
    """Also at its very end, which is asked for when the last step's progress is told."""
    config = recipe(f"scheduler={scheduler}", "milestones=[0.5]", f"epochs={epochs}", "warmup_epochs=5")
    assert [learning_rate(config, epoch) for epoch in (0, epochs / 2)] == pytest.approx([0.01, 0.01 + 0.09 * epochs / 10])
    if scheduler != "multistep":
        assert learning_rate(config, epochs) == pytest.approx(0.01 + 0.09 * epochs / 5)
