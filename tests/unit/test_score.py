"""The figures of an evaluation, against what one counts by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from last_e import checkpoint
from last_e.config import TrainConfig
from last_e.data.files import read_irds
from last_e.data.shown import Spoil
from last_e.evaluate import Views, mirror_for
from last_e.known import description_of
from last_e.layers import resolve
from last_e.manifest import Manifest
from last_e.model import LastE
from last_e.predict.network import Network
from last_e.reading import set_layer
from last_e.score.figures import calibration_error, figures
from last_e.score.models import Asked, best_weights, score
from runner.view.evaluate import _how

THREE = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]])
LABEL = np.array([0, 0, 1, 0, 0])
NOBODY = np.zeros(5, np.int64)


def test_what_is_taken_for_what_and_how_each_class_is_found() -> None:
    found = figures(THREE, LABEL, NOBODY)
    assert found["confusion"] == [[2, 2, 0], [0, 1, 0], [0, 0, 0]]
    assert [(row["recall"], row["precision"]) for row in found["per_class"]] == [(0.5, 1.0), (1.0, 1 / 3), (None, None)]
    assert found["balanced_accuracy"] == 0.75  # of the classes that are there
    assert found["clips"] == 5


def test_confidence_that_is_as_good_as_it_says_is_off_by_nothing() -> None:
    sure = np.tile([0.75, 0.25], (400, 1))
    label = np.array([0, 0, 0, 1] * 100)
    assert calibration_error(sure, label) == pytest.approx(0.0, abs=1e-12)
    assert calibration_error(sure, np.ones(400, np.int64)) == pytest.approx(0.75)
    # Two bins: 0.9 right half of the time, 0.6 always right.
    two = np.array([[0.9, 0.1]] * 100 + [[0.6, 0.4]] * 300)
    right = np.array([0, 1] * 50 + [0] * 300)
    assert calibration_error(two, right) == pytest.approx(0.25 * 0.4 + 0.75 * 0.4)
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0.0


def test_an_interval_is_that_of_people_where_there_are_enough() -> None:
    """Of ten people, of whom five are always right, anything may come; ten times as many clips of the same say no more."""
    people = np.arange(1000) % 10
    label = np.zeros(1000, np.int64)
    said = np.where((people < 5)[:, None], [0.9, 0.1], [0.1, 0.9])
    of_people = figures(said, label, people)["interval"]
    of_clips = figures(said, label, np.zeros(1000, np.int64))["interval"]
    assert (of_people["of"], of_clips["of"]) == ("people", "clips")
    assert of_people["low"] == pytest.approx(0.2, abs=0.101)
    assert of_people["high"] == pytest.approx(0.8, abs=0.101)
    width = 1.96 * math.sqrt(0.25 / 1000)
    assert of_clips["low"] == pytest.approx(0.5 - width, abs=0.01)
    assert of_clips["high"] == pytest.approx(0.5 + width, abs=0.01)
    assert figures(said, label, people)["interval"] == of_people  # the same each time


def test_the_weights_of_a_mixture_are_the_best_there_are() -> None:
    random = np.random.default_rng(0)
    label = torch.from_numpy(random.integers(0, 3, 400))
    right = torch.eye(3, dtype=torch.float64)[label]
    good, poor, useless = (0.7 * right + 0.1, 0.4 * right.roll(1, 0) + 0.2, torch.full((400, 3), 1 / 3, dtype=torch.float64))
    mixed = (
        torch.where(torch.arange(400)[:, None] < 250, good, useless),
        torch.where(torch.arange(400)[:, None] < 250, useless, good),
    )
    weights, found = best_weights(list(mixed), label)
    tried = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    hits = torch.stack([one.gather(1, label[:, None])[:, 0] for one in mixed])
    losses = -(tried[:, None] * hits[0] + (1 - tried[:, None]) * hits[1]).log().mean(1)
    assert float(weights[0]) == pytest.approx(float(tried[losses.argmin()]), abs=2e-3)
    assert found["loss"] <= float(losses.min()) + 1e-9
    assert found["losses"] == pytest.approx([float(-each.log().mean()) for each in hits])
    alone, _ = best_weights([good, poor], label)
    assert alone.tolist() == pytest.approx([1.0, 0.0], abs=1e-3)


def test_with_mirrored_views_a_clip_and_its_mirror_image_are_said_to_be_each_others(tmp_path: Path) -> None:
    """Of all views, by the evaluation and by the prediction; and by the average of the weights, which is another network."""
    words = ["model=nano", "dataset=irds", "training.input_frames=16", "training.ema=0.9", "hardware.cpu_threads=1"]
    words += ["model.stem_channels=8", "model.channels=[8,8]", "model.num_blocks=[1,1]", "model.depths=[1,1]"]
    layer, problems = set_layer([*words, "model.strides=[1,2]"])
    config = resolve([layer], TrainConfig, problems, detect=lambda: ("local", "")).config
    torch.manual_seed(0)
    networks = [LastE(config.model, 9), LastE(config.model, 9)]
    for network in networks:  # surer of itself than untrained ones are
        torch.nn.init.normal_(network.fc.weight)
    state = {"model": networks[0].state_dict(), "ema_model": networks[1].state_dict()}
    folder = checkpoint.save(tmp_path, state, config.model_dump_json(), Manifest(step=1, epoch=1, evaluated=True))
    result, said = score([Asked(folder, config, 1.0)], "test", 3, lambda *_: None, mirror=True)
    assert result["clips"] == 548

    clips, some = read_irds(), [one["clip"] for one in said[::60]]
    mirror = mirror_for(config, description_of("irds", 9))
    joints = [clips.joints[clips.start[n] : clips.start[n] + clips.length[n]].numpy()[None] for n in some]
    flipped = [one[:, :, list(mirror.joints)] * np.array([-1, 1, 1], np.int16) for one in joints]
    asked = Network(folder, config)
    plain_views = asked.probabilities(joints)
    asked.views = Views(3, mirror)
    found, other = asked.probabilities(joints), asked.probabilities(flipped)
    np.testing.assert_allclose(found.max(1), [one["probability"] for one in said[::60]], rtol=1e-5)
    np.testing.assert_allclose(other[:, list(mirror.classes)], found, rtol=1e-4)
    assert np.abs(plain_views - found).max() > 1e-3
    averaged = Network(folder, config, ema=True)
    assert np.abs(averaged.probabilities(joints) - plain_views).max() > 1e-3

    spoilt = score([Asked(folder, config, 1.0)], "test", 1, lambda *_: None, spoil=Spoil(noise=0.1, missing=0.2, motion=0.3))
    again = score([Asked(folder, config, 1.0)], "test", 1, lambda *_: None, spoil=Spoil(noise=0.1, missing=0.2, motion=0.3))
    assert spoilt == again
    assert spoilt[0]["loss"] != result["loss"]


def test_what_was_asked_is_told_with_the_figures() -> None:
    nothing = {"part": "test", "crops": 1, "mirror": False, "ema": False}
    assert _how({**nothing, "spoil": {"noise": None, "missing": None, "motion": None}}) == ""
    wrong = {"noise": 0.05, "missing": 0.2, "motion": 0.3}
    told = "noise of 0.05 m, 20% of the joints not seen, 30% of the motion"
    asked = {**nothing, "crops": 3, "mirror": True, "ema": True, "spoil": wrong}
    assert _how(asked) == f"; the average of the weights, the mean of 6 views of each clip, {told}"
