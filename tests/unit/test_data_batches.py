"""Placing, cropping, augmenting and batching of clips, against plain numpy and against itself cut otherwise."""

import dataclasses

import numpy as np
import pytest
import torch

from last_e.config import TrainConfig, TrainingConfig
from last_e.data import Clips
from last_e.data import transform as tf
from last_e.data.batches import Batch, TestBatches, TrainBatches, average_bodies, prefetch, rows_of
from last_e.data.files import read_irds
from last_e.data.placement import place
from last_e.data.shown import still
from last_e.data.synthetic import synthetic_clips
from last_e.graph import BONES
from last_e.layers import resolve
from last_e.problems import ConfigError
from last_e.reading import set_layer


def recipe(*assignments: str) -> TrainingConfig:
    words = ["batch_size=8", "input_frames=16", *assignments]
    layer, problems = set_layer(f"training.{word}" for word in words)
    return resolve([layer], TrainConfig, problems, detect=lambda: ("local", "")).config.training


@pytest.fixture(scope="module")
def clips() -> Clips:
    return synthetic_clips(6, 60)


def batches(clips: Clips, *assignments: str, micro: int | None = None, workers: int = 0) -> TrainBatches:
    return TrainBatches(clips, torch.arange(len(clips)), recipe(*assignments), micro, (5, 3), workers)


def equal(a: Batch, b: Batch) -> bool:
    parts = [(a.streams[name], b.streams[name]) for name in ("joint", "velocity", "bone")]
    parts += [(a.owner, b.owner), (a.label, b.label)]
    if a.noise is not None and b.noise is not None:
        parts += list(zip(a.noise, b.noise))
    return (a.noise is None) == (b.noise is None) and all(torch.equal(x, y) for x, y in parts)


def raw(clips: Clips, clip: int, body: int) -> np.ndarray:
    """(length, 25, 3) metres of one body, cut out by hand."""
    start = sum(int(n * b) for n, b in zip(clips.length[:clip], clips.bodies[:clip])) + body * int(clips.length[clip])
    return clips.joints[start : start + int(clips.length[clip])].numpy() / 1000.0


# --- placement ---------------------------------------------------------------------------------------------------------


def test_clips_that_a_gpu_holds_were_placed_before_they_went_there_and_are_not_fetched_for_it(monkeypatch):
    """On a device whose numbers nobody can read."""
    measured = []
    monkeypatch.setattr("last_e.data.clips.place", lambda of: (measured.append(of.joints.device.type), place(of))[1])
    there = synthetic_clips(6, 24).to(torch.device("meta"))
    made = batches(there), TestBatches(there, torch.arange(24), 16, 8)
    assert measured == ["cpu"]
    assert {of.placement.turn.device.type for of in made} == {"meta"}


@pytest.mark.parametrize("source", [synthetic_clips, read_irds])
def test_placement_centres_turns_and_scales_every_clip(source):
    clips = source()
    some = torch.arange(0, len(clips), 17)
    placement = place(clips)
    for clip in some.tolist():
        body = (raw(clips, clip, 0) - placement.origin[clip].numpy()) @ placement.turn[clip].numpy().T
        assert np.abs(body[0, 0]).max() < 1e-4, "the spine base of the first frame is the origin"
        across = body[0, 8] - body[0, 4]
        assert across[0] > 0, "from left to right shoulder along x"
        assert abs(across[2]) < 1e-4
        torso = np.linalg.norm(body[:, 2] - body[:, 0], axis=1).mean()
        assert torso == pytest.approx(1, abs=1e-4)
        height = (raw(clips, clip, 0)[0, 3] - raw(clips, clip, 0)[0, 0])[1]
        assert body[0, 3, 1] == pytest.approx(height / float(placement.torso[clip]), abs=1e-4), "the vertical stays vertical"


def test_both_bodies_share_the_placement_of_the_first(clips):
    clip = int((clips.bodies == 2).nonzero()[0])
    index, (owner, body) = torch.tensor([clip]), rows_of(torch.tensor([2]))
    placed = still(clips, place(clips), index, owner, body, 64)
    between = placed[1, 0, 0] - placed[0, 0, 0]
    assert float(placed[0, 0, 0].norm()) < 0.2
    assert float(between.norm()) > 0.5, "the second stands where it stood, seen from the first"


def test_a_body_without_extent_stays_finite():
    clips = Clips(torch.zeros(20, 25, 3, dtype=torch.int16), *(torch.tensor([v]) for v in (20, 1, 0, 1, 1, 1)))
    assert torch.isfinite(place(clips).turn).all()


# --- resampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [16, 64, 100])
def test_resampling_is_linear_interpolation(clips, frames):
    index = torch.tensor([3, 50, 17, 8])
    crop = torch.tensor([[0.0, 1.0], [0.1, 0.6], [0.5, 0.5], [0.025, 0.95]])
    owner, body = rows_of(clips.bodies[index])
    sampled = tf.sample(clips, index, owner, body, crop, frames).numpy()
    for row, (of, which) in enumerate(zip(owner.tolist(), body.tolist())):
        body_frames = raw(clips, int(index[of]), which)
        last = len(body_frames) - 1
        at = last * (float(crop[of, 0]) + float(crop[of, 1]) * np.linspace(0, 1, frames))
        for joint, axis in ((0, 0), (7, 1), (24, 2)):
            expected = np.interp(at, np.arange(last + 1), body_frames[:, joint, axis])
            np.testing.assert_allclose(sampled[row, :, joint, axis], expected, atol=1e-4)


@pytest.mark.slow
def test_no_frame_of_a_neighbouring_clip_is_ever_read():
    """Each body's rows hold its own number, so any mixture would show."""
    length, bodies = torch.tensor([1, 7, 2, 80, 3, 33]), torch.tensor([1, 2, 2, 1, 2, 1])
    spans = torch.repeat_interleave(length, bodies)
    value = torch.repeat_interleave(torch.arange(1, len(spans) + 1) * 100, spans).to(torch.int16)
    ones = torch.ones_like(length)
    clips = Clips(value[:, None, None].expand(-1, 25, 3).contiguous(), length, bodies, ones * 0, ones, ones, ones)
    index = torch.arange(len(length)).repeat(200)
    owner, body = rows_of(bodies[index])
    first_value = torch.tensor([1, 2, 4, 6, 7, 9])
    expected = (first_value[index][owner] + body).float() / 10
    span = torch.rand(len(index), generator=torch.Generator().manual_seed(0))
    for crop in (torch.stack([1 - span, span], 1), torch.stack([torch.zeros_like(span), torch.ones_like(span)], 1)):
        for frames in (16, 63, 64):
            sampled = tf.sample(clips, index, owner, body, crop, frames)
            torch.testing.assert_close(sampled, expected[:, None, None, None].expand_as(sampled))


def test_the_whole_clip_begins_and_ends_at_its_ends(clips):
    index = torch.arange(20)
    owner, body = rows_of(clips.bodies[index])
    sampled = tf.sample(clips, index, owner, body, torch.tensor([[0.0, 1.0]]).expand(20, 2), 16).numpy()
    for row, (of, which) in enumerate(zip(owner.tolist(), body.tolist())):
        frames = raw(clips, of, which)
        np.testing.assert_allclose(sampled[row, [0, -1]], frames[[0, -1]], atol=1e-6)


# --- streams -----------------------------------------------------------------------------------------------------------


def check_streams(streams: dict[str, torch.Tensor]) -> None:
    joint, velocity, bone = (streams[name].numpy() for name in ("joint", "velocity", "bone"))
    np.testing.assert_array_equal(velocity[:, :, :-1], np.diff(joint, axis=2))
    assert not velocity[:, :, -1].any()
    for child, parent in BONES:
        np.testing.assert_array_equal(bone[..., child], joint[..., child] - joint[..., parent])
    assert not bone[..., 0].any()
    assert all(streams[name].is_contiguous() for name in streams)


def test_velocity_and_bone_agree_with_the_joints():
    check_streams(tf.to_streams(torch.randn(4, 10, 25, 3, generator=torch.Generator().manual_seed(0))))


def test_velocity_and_bone_agree_with_the_augmented_joints_of_a_batch(clips):
    for batch in next(batches(clips).epoch(0)):
        check_streams(batch.streams)


# --- augmentation ------------------------------------------------------------------------------------------------------


def test_training_crops_are_between_half_and_the_whole_and_lie_inside():
    begin, span = tf.train_crop(5, torch.arange(5000)).T
    assert float(span.min()) >= 0.5
    assert float(span.max()) <= 1
    assert float(begin.min()) >= 0
    assert float((begin + span).max()) <= 1 + 1e-6
    assert float(span.min()) < 0.51
    assert float(span.max()) > 0.99
    assert float((begin / (1 - span)).mean()) == pytest.approx(0.5, abs=0.02)


def test_the_test_crop_is_the_middle_95_percent():
    assert tf.test_crop(torch.arange(3)).tolist() == [pytest.approx([0.025, 0.95])] * 3


def test_warps_stay_within_15_degrees_a_tenth_of_scale_and_a_tenth_of_shear():
    """Taken apart again: the warp is shear @ tilt @ yaw * scale, so bounds follow for its singular values and its volume."""
    matrices = tf.warp(11, torch.arange(20_000)).double()
    angle, shear = np.radians(15), 0.1
    steepest = np.linalg.norm(np.eye(3) + shear * (np.ones((3, 3)) - np.eye(3)), 2)
    sizes = torch.linalg.svdvals(matrices)
    assert float(sizes.max()) <= 1.1 * steepest + 1e-6
    assert float(sizes.max()) > 1.1
    assert float(torch.linalg.det(matrices).min()) > 0, "never mirrored"
    identity = np.eye(3)
    furthest = float((matrices - torch.from_numpy(identity)).flatten(1).norm(dim=1).max())
    assert furthest < 1.1 * (2 * np.sin(angle / 2) * np.sqrt(2) * 2 + shear * np.sqrt(6)) + 0.1 * np.sqrt(3)
    assert float((matrices - torch.from_numpy(identity)).mean(dim=0).abs().max()) < 0.03, "centred on no change"


def test_jitter_is_a_centimetre_and_differs_between_bodies():
    noise = tf.jitter(3, torch.tensor([4, 4, 5]), torch.tensor([0, 1, 0]), 64)
    assert noise.shape == (3, 64, 25, 3)
    assert float(noise.std()) == pytest.approx(0.01, rel=0.03)
    assert abs(float(noise.mean())) < 2e-4
    assert float(noise.abs().max()) < 0.035
    assert not torch.equal(noise[0], noise[1])
    assert np.abs(np.corrcoef(noise.flatten(1).numpy()) - np.eye(3)).max() < 0.05


def test_augmentation_changes_with_the_epoch_and_the_seed(clips):
    one, other_epoch = next(batches(clips).epoch(0))[0], next(batches(clips).epoch(1))[0]
    other_seed = next(batches(clips, "seed=43").epoch(0))[0]
    assert not torch.equal(one.label, other_epoch.label) or not torch.equal(one.streams["joint"], other_epoch.streams["joint"])
    assert not torch.equal(one.noise.dropout, other_epoch.noise.dropout)
    assert not torch.equal(one.noise.dropout, other_seed.noise.dropout)


def test_without_augmentation_a_training_clip_is_seen_as_a_test_clip(clips):
    plain = batches(clips, "augment=false")
    (batch,) = next(plain.epoch(2))
    again = TestBatches(clips, torch.arange(60), 16, 60)
    (all_clips,) = list(again)
    seen = {tuple(row.flatten()[:6].tolist()) for row in all_clips.streams["joint"]}
    assert all(tuple(row.flatten()[:6].tolist()) in seen for row in batch.streams["joint"])


# --- batches -----------------------------------------------------------------------------------------------------------


def test_test_batches_are_the_same_every_time_in_the_order_of_the_file(clips):
    index = torch.arange(0, 60, 3)
    made = TestBatches(clips, index, 16, 8)
    first, second = list(made), list(made)
    assert len(made) == len(first) == 3
    assert torch.equal(torch.cat([batch.label for batch in first]), clips.label[index])
    assert all(equal(a, b) and a.noise is None for a, b in zip(first, second))


def test_test_clips_do_not_hang_on_the_batch_size(clips):
    joint = [torch.cat([b.streams["joint"] for b in TestBatches(clips, torch.arange(60), 16, size)]) for size in (1, 7, 60)]
    torch.testing.assert_close(joint[0], joint[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(joint[0], joint[2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_the_same_whatever_the_number_of_workers(clips, workers):
    alone = [micro for step in batches(clips).epoch(1) for micro in step]
    helped = [micro for step in batches(clips, workers=workers).epoch(1) for micro in step]
    assert len(alone) == 7
    assert all(equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_a_cut_epoch_goes_on_with_what_would_have_come(clips):
    whole = list(batches(clips).epoch(3))
    for first in (0, 1, 5, 6, 7):
        rest = list(batches(clips).epoch(3, first))
        assert len(rest) == 7 - first
        assert all(equal(a, b) for x, y in zip(whole[first:], rest, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize(("micro", "sizes"), [(8, [8]), (3, [3, 3, 2]), (7, [4, 4]), (2, [2] * 4), (100, [8])])
def test_micro_batches_are_pieces_of_the_same_batch(clips, micro, sizes):
    (whole,) = next(batches(clips).epoch(0))
    pieces = next(batches(clips, micro=micro).epoch(0))
    assert [len(piece.label) for piece in pieces] == sizes
    assert torch.equal(torch.cat([piece.label for piece in pieces]), whole.label)
    for name in whole.streams:
        torch.testing.assert_close(torch.cat([p.streams[name] for p in pieces]), whole.streams[name], rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.cat([piece.noise.dropout for piece in pieces]), whole.noise.dropout)
    assert torch.equal(torch.cat([piece.noise.path for piece in pieces]), whole.noise.path)


def test_accumulation_takes_the_same_clips_as_one_large_batch(clips):
    (large,) = next(batches(clips, "batch_size=16").epoch(0))
    parts = next(batches(clips, "batch_size=8", "gradient_accumulation_steps=2").epoch(0))
    assert [len(part.label) for part in parts] == [8, 8]
    assert torch.equal(torch.cat([part.label for part in parts]), large.label)
    assert torch.equal(torch.cat([part.noise.path for part in parts]), large.noise.path)


def test_micro_batches_do_not_straddle_two_batches(clips):
    parts = next(batches(clips, "batch_size=5", "gradient_accumulation_steps=2", micro=3).epoch(0))
    assert [len(part.label) for part in parts] == [3, 2, 3, 2]


def test_an_epoch_shows_every_clip_once_but_for_the_last_incomplete_batch():
    clips = dataclasses.replace(synthetic_clips(6, 60), label=torch.arange(60))
    seen = [int(x) for step in batches(clips, "batch_size=8").epoch(0) for micro in step for x in micro.label]
    assert len(seen) == len(set(seen)) == 56
    other = [int(x) for step in batches(clips, "batch_size=8").epoch(1) for micro in step for x in micro.label]
    assert seen != other
    assert set(seen) | set(other) > set(seen)


def test_too_few_clips_for_one_batch_are_refused(clips):
    with pytest.raises(ConfigError, match=r"training\.batch_size: found 64 clips a step; allowed: at most 60 clips"):
        batches(clips, "batch_size=32", "gradient_accumulation_steps=2")


def test_only_the_given_clips_are_shown(clips):
    clips = dataclasses.replace(clips, label=torch.arange(60))
    index = torch.arange(0, 60, 2)
    made = TrainBatches(clips, index, recipe(), None, (5, 3))
    assert {int(x) for step in made.epoch(0) for micro in step for x in micro.label} <= set(index.tolist())


# --- two bodies --------------------------------------------------------------------------------------------------------


def test_each_body_of_a_clip_is_a_row(clips):
    owner, body = rows_of(torch.tensor([1, 2, 2, 1]))
    assert owner.tolist() == [0, 1, 1, 2, 2, 3]
    assert body.tolist() == [0, 0, 1, 0, 1, 0]
    for batch in next(batches(clips).epoch(0)):
        bodies = 1 + (batch.label % 3 == 2).long()
        assert batch.owner.tolist() == rows_of(bodies)[0].tolist()
        rows = int(bodies.sum())
        assert {stream.shape for stream in batch.streams.values()} == {(rows, 3, 16, 25)}
        assert batch.noise.dropout.shape == (rows, 5)
        assert batch.noise.path.shape == (rows, 3)


def test_both_bodies_of_a_clip_are_dropped_together(clips):
    (batch,) = next(batches(clips).epoch(0))
    twice = torch.bincount(batch.owner) == 2
    assert twice.any()
    for clip in twice.nonzero()[:, 0]:
        first, second = (batch.owner == clip).nonzero()[:, 0]
        assert torch.equal(batch.noise.dropout[first], batch.noise.dropout[second])
        assert torch.equal(batch.noise.path[first], batch.noise.path[second])


def test_the_logits_of_a_clip_are_the_mean_over_its_bodies():
    batch = Batch({}, torch.tensor([0, 1, 1, 2]), torch.zeros(3, dtype=torch.int64), torch.tensor([1.0, 0.5, 0.5, 1.0]))
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 8.0], [7.0, 0.0]])
    assert average_bodies(rows, batch).tolist() == [[1.0, 2.0], [4.0, 6.0], [7.0, 0.0]]
    single = Batch({}, torch.tensor([0, 1]), torch.zeros(2, dtype=torch.int64))
    assert average_bodies(rows[:2], single) is not None
    assert average_bodies(rows[:2], single).tolist() == rows[:2].tolist()


# --- prefetching -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_prefetching_keeps_the_order_and_tells_errors(workers):
    assert list(prefetch(lambda n: n * n, range(20), workers)) == [n * n for n in range(20)]

    def fails(number: int) -> int:
        return 1 // (3 - number)

    made = prefetch(fails, range(10), workers)
    assert [next(made) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(made)


def test_prefetching_stays_only_a_little_ahead():
    made = []
    going = prefetch(lambda n: made.append(n), range(1000), 2)
    next(going)
    going.close()
    assert len(made) <= 6


def test_clips_that_a_device_holds_do_not_come_back(clips):
    """On a device that gives nothing back: they are measured before they go there, once for all batches."""
    there = clips.to(torch.device("meta"))
    assert there.joints.is_meta
    assert there.placement.origin.is_meta
    with pytest.raises(NotImplementedError):
        there.joints.cpu()
    train = TrainBatches(there, torch.arange(60), recipe(), None, (8, 3))
    test = TestBatches(there, torch.arange(60), 16, 20)
    assert train.placement is test.placement is there.placement
    (batch,) = next(train.epoch(0))
    (here,) = next(TrainBatches(clips, torch.arange(60), recipe(), None, (8, 3)).epoch(0))
    assert batch.streams["joint"].is_meta
    assert batch.streams["joint"].shape == here.streams["joint"].shape
    assert next(iter(test)).label.shape == (20,)
