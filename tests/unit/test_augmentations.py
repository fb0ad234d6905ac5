"""Augmentations beside the reference's, each against plain numpy, a clip at a time and a frame at a time."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from last_e import rng
from last_e.config import TrainConfig, TrainingConfig
from last_e.data import Clips
from last_e.data import augment as au
from last_e.data import transform as tf
from last_e.data.batches import Batch, Order, TestBatches, TrainBatches
from last_e.data.files import read_irds
from last_e.data.shown import Spoil
from last_e.data.synthetic import synthetic_clips
from last_e.datafile import DataError
from last_e.evaluate import Views, mirror_for, of_view
from last_e.joints import PARENTS
from last_e.known import description_of, mirrored_classes, no_mirror
from last_e.layers import resolve
from last_e.problems import ConfigError
from last_e.reading import set_layer
from last_e.skeletons import NTU25
from last_e.step import cross_entropy, loss_of

Floats = np.ndarray[Any, Any]
FRAMES = 16
SIDES = ((0, 1), (2, 4))
"""Of the made-up clips' classes, as far as this test is concerned: 2 and 4 have unequal numbers of bodies."""
EACH = {
    "mirror": ["mirror=0.5"],
    "motion": ["motion=0.7"],
    "motion_from": ["motion=1.0", "motion_range=[0.2, 0.4]", "motion_from=mean"],
    "limbs": ["limbs=0.2"],
    "pose": ["pose=0.1"],
    "lean": ["lean=20"],
    "drift": ["drift=0.5"],
    "rotation": ["rotation=120"],
    "noise": ["noise=0.03"],
    "speed": ["speed=0.6"],
    "mask_joints": ["mask_joints=0.3"],
    "mask_frames": ["mask_frames=0.5"],
    "mixup": ["mixup=0.4"],
}
ALL = [word for name, words in EACH.items() if name != "motion_from" for word in words]


def settings(*words: str, dataset: str = "irds") -> TrainConfig:
    layer, problems = set_layer([f"dataset={dataset}", "training.batch_size=24", f"training.input_frames={FRAMES}", *words])
    return resolve([layer], TrainConfig, problems, detect=lambda: ("local", "")).config


def recipe(*augmentations: str) -> TrainingConfig:
    return settings(*(f"training.augmentations.{word}" for word in augmentations)).training


@pytest.fixture(scope="module")
def some() -> Clips:
    return synthetic_clips(6, 48)


def made(clips: Clips, *augmentations: str, micro: int | None = None) -> TrainBatches:
    mirror = au.mirror_of(clips.skeleton, 6, SIDES)
    return TrainBatches(clips, torch.arange(len(clips)), recipe(*augmentations), micro, (4, 3), mirror=mirror)


def drawn(config: TrainingConfig, purpose: int, epoch: int, index: int, columns: int) -> Floats:
    return rng.uniform(rng.key(config.seed, purpose, epoch), torch.tensor([index]), columns)[0].double().numpy()


def rotation(axis: int, angle: float) -> Floats:
    """About x or z, by the right-hand rule."""
    a, b = [one for one in range(3) if one != axis]
    turn = np.eye(3)
    turn[a, a] = turn[b, b] = np.cos(angle)
    turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
    return turn


def plainly(clips: Clips, config: TrainingConfig, epoch: int, position: int, clip: int, body: int) -> tuple[Floats, int]:
    """One body of one clip, (T, 25, 3), and its class, as an epoch shows it at a position, step by step."""
    more, label = config.augmentations, int(clips.label[clip])
    person = 2 * position + body
    length, start = int(clips.length[clip]), int(clips.start[clip])
    raw = clips.joints[start + body * length : start + (body + 1) * length].double().numpy() / 1000
    # Where and when.
    span = 0.5 + 0.5 * drawn(config, rng.CROP, epoch, position, 2)[0]
    begin = (1 - span) * drawn(config, rng.CROP, epoch, position, 2)[1]
    moments = np.linspace(0, 1, FRAMES)
    if more.speed is not None:
        change = more.speed * (2 * drawn(config, rng.SPEED, epoch, position, 1)[0] - 1)
        moments = np.array([u + change * u * (u - 1) for u in moments])
    at = (length - 1) * (begin + span * moments)
    x = np.stack([[np.interp(at, np.arange(length), raw[:, j, a]) for a in range(3)] for j in range(25)]).transpose(2, 0, 1)
    if more.motion is not None:
        whether, how_far = drawn(config, rng.MOTION, epoch, person, 2)
        low, high = more.motion_range or (0.15, 1.1)
        middle = x.mean(axis=0) if more.motion_from == "mean" else raw[0]
        x = middle + (x - middle) * (low + (high - low) * how_far if whether < more.motion else 1)
    if more.limbs is not None:
        numbers, longer = drawn(config, rng.LIMBS, epoch, person, 25), x.copy()
        left = {right: left for left, right in NTU25.pairs}
        for joint in sorted(range(1, 25), key=lambda one: au.ways(NTU25, torch.device("cpu"))[one].sum()):
            factor = 1 + more.limbs * (2 * numbers[left.get(joint, joint)] - 1)
            longer[:, joint] = longer[:, PARENTS[joint]] + factor * (x[:, joint] - x[:, PARENTS[joint]])
        x = longer
    place = clips.placement
    x = x - place.origin[clip].double().numpy()
    noise = tf.jitter(rng.key(config.seed, rng.JITTER, epoch), torch.tensor([position]), torch.tensor([body]), FRAMES)
    x = x + noise[0].double().numpy() * (more.noise or 0.01) / 0.01
    # Of the whole body: turned and scaled, mirrored, leaning, then the random map.
    x = x @ place.turn[clip].double().numpy().T
    if more.mirror is not None and drawn(config, rng.MIRROR, epoch, position, 1)[0] < more.mirror:
        other = {**dict(NTU25.pairs), **{b: a for a, b in NTU25.pairs}}
        x = x[:, [other.get(joint, joint) for joint in range(25)]] * [-1, 1, 1]
        label = {0: 1, 1: 0, 2: 4, 4: 2}.get(label, label)
    if more.lean is not None:
        about_x, about_z = np.radians(more.lean) * (2 * drawn(config, rng.LEAN, epoch, position, 2) - 1)
        x = x @ (rotation(2, about_z) @ rotation(0, about_x)).T
    numbers = 2 * drawn(config, rng.WARP, epoch, position, 9) - 1
    yaw = np.radians(more.rotation or 15) * numbers[0]
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    shear = np.eye(3)
    shear[~np.eye(3, dtype=bool)] = 0.1 * numbers[3:]
    x = x @ (shear @ rotation(0, np.pi / 12 * numbers[1]) @ turn * (1 + 0.1 * numbers[2])).T
    if more.pose is not None:
        moves, moved = more.pose * (2 * drawn(config, rng.POSE, epoch, person, 75).reshape(25, 3) - 1), x.copy()
        for joint in range(1, 25):
            way = joint
            while way != 0:
                moved[:, joint] += moves[way]
                way = PARENTS[way]
        x = moved
    if more.drift is not None:
        end = more.drift * (2 * drawn(config, rng.DRIFT, epoch, person, 2) - 1)
        for frame in range(FRAMES):
            x[frame] += frame / (FRAMES - 1) * np.array([end[0], 0, end[1]])
    # What is not seen.
    if more.mask_joints is not None:
        hidden, seen = drawn(config, rng.MASK_JOINTS, epoch, person, 25) < more.mask_joints, x.copy()
        for joint in range(25):
            at_joint = joint
            while hidden[at_joint] and at_joint != 0:
                at_joint = PARENTS[at_joint]
            seen[:, joint] = x[:, at_joint]
        x = seen
    if more.mask_frames is not None:
        numbers = drawn(config, rng.MASK_FRAMES, epoch, person, 2)
        count = int(more.mask_frames * (FRAMES - 1) * numbers[0])
        before = int((FRAMES - 1 - count) * numbers[1])
        kept = [frame for frame in range(FRAMES) if not before < frame <= before + count]
        for joint in range(25):
            for axis in range(3):
                x[:, joint, axis] = np.interp(np.arange(FRAMES), kept, x[kept, joint, axis])
    return x, label


def order_of(batches: TrainBatches, epoch: int) -> list[int]:
    return [int(n) for n in rng.permutation(rng.key(batches.config.seed, rng.ORDER, epoch), len(batches.index))]


@pytest.mark.parametrize("words", [*EACH.values(), ALL], ids=[*EACH, "all"])
def test_an_augmentation_is_what_plain_numpy_makes_of_it(words: list[str], some: Clips) -> None:
    epoch, batches = 1, made(some, *words)
    order = order_of(batches, epoch)
    (batch,) = next(batches.epoch(epoch))
    away = 1 + int(rng.random_bits(rng.key(42, rng.PARTNER, epoch), torch.tensor([0]), 1)) % 23
    for row in range(len(batch.owner)):
        position = int(batch.owner[row])
        body = row - int((batch.owner < position).sum())
        wanted, label = plainly(some, batches.config, epoch, position, order[position], body)
        if batch.mixed is not None:
            other = (position + away) % 24
            share = float(batch.mixed.share[position])
            bodies = int(some.bodies[order[other]])
            second, its_label = plainly(some, batches.config, epoch, other, order[other], body % bodies)
            wanted = share * wanted + (1 - share) * second
            assert int(batch.mixed.label[position]) == its_label
        found = batch.streams["joint"][row].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(found, wanted, atol=2e-4)
        assert int(batch.label[position]) == label
    plain_batch = next(made(some).epoch(epoch))[0]
    assert not torch.equal(plain_batch.streams["joint"], batch.streams["joint"]), "it does something"
    velocity, bone = batch.streams["joint"].diff(dim=2), batch.streams["joint"] - batch.streams["joint"][..., PARENTS]
    assert torch.equal(batch.streams["velocity"][:, :, :-1], velocity)
    assert torch.equal(batch.streams["bone"], bone)


def test_without_them_a_batch_is_bit_for_bit_what_it_was(some: Clips) -> None:
    """The reference's way, written down as it was before there were any."""
    batches = made(some)
    (batch,) = next(batches.epoch(2))
    place, config, order = some.placement, batches.config, torch.tensor(order_of(batches, 2))
    position, index, owner, body, _, _ = Order(some, order).piece(0, 24)

    def key(purpose: int) -> int:
        return rng.key(config.seed, purpose, 2)

    joints = tf.sample(some, index, owner, body, tf.train_crop(key(rng.CROP), position), FRAMES)
    joints -= place.origin[index][owner][:, None, None]
    joints += tf.jitter(key(rng.JITTER), position[owner], body, FRAMES, 25, 2)
    matrix = (tf.warp(key(rng.WARP), position) @ place.turn[index])[owner]
    joints = (joints.view(len(owner), -1, 3) @ matrix.transpose(1, 2)).view(len(owner), FRAMES, 25, 3)
    for name, stream in tf.to_streams(joints).items():
        assert torch.equal(batch.streams[name], stream)
    assert torch.equal(batch.label, some.label[index])
    assert batch.mixed is None


def parts_of(batches: TrainBatches) -> list[Batch]:
    return [part for step in batches.epoch(1) for part in step]


@pytest.mark.parametrize("micro", [2, 7])
def test_cut_into_micro_batches_or_made_late_all_of_them_are_the_same(micro: int, some: Clips) -> None:
    whole, pieces = parts_of(made(some, *ALL)), parts_of(made(some, *ALL, micro=micro))
    for name in ("joint", "velocity", "bone"):
        one, other = (torch.cat([part.streams[name] for part in parts]) for parts in (whole, pieces))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    for look in (lambda part: part.label, lambda part: part.mixed.label, lambda part: part.mixed.share):
        assert torch.equal(torch.cat([look(part) for part in whole]), torch.cat([look(part) for part in pieces]))
    (late,) = list(made(some, *ALL).epoch(1, 1))
    assert torch.equal(late[0].streams["joint"], whole[1].streams["joint"])


def test_mixed_shares_are_distributed_as_beta() -> None:
    for concentration in (0.2, 1.0, 3.0):
        found = np.sort(au.larger_share(5, torch.arange(20_000), concentration).numpy())
        wanted = np.random.default_rng(0).beta(concentration, concentration, 20_000)
        wanted = np.sort(np.maximum(wanted, 1 - wanted))
        assert np.abs(found - wanted).max() < 0.02
        assert found.min() >= 0.5


def test_the_loss_of_mixed_clips_is_that_of_both_classes_by_their_shares(some: Clips) -> None:
    (batch,) = next(made(some, "mixup=1.0").epoch(0))
    assert batch.mixed is not None
    logits = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
    for weights in (None, torch.tensor([1.0, 2, 3, 4, 5, 6])):
        wanted = 0.0
        for row in range(24):
            one = logits[row : row + 1]
            for label, share in ((batch.label, batch.mixed.share[row]), (batch.mixed.label, 1 - batch.mixed.share[row])):
                wanted += float(share * cross_entropy(one, label[row : row + 1], 0.1, weights))
        assert float(loss_of(logits, batch, 0.1, weights)) == pytest.approx(wanted, rel=1e-5)


# --- mirrors -----------------------------------------------------------------------------------------------------------


def test_a_mirrored_gesture_of_one_side_looks_like_the_same_gesture_of_the_other() -> None:
    """Whose arm moves tells its class: of the recordings that ship, and of their mirror images under the swapped label."""
    clips = read_irds()
    mirror = au.mirror_of(NTU25, 9, mirrored_classes("irds"))
    assert mirror is not None
    assert mirror.classes == (1, 0, 3, 2, 5, 4, 6, 8, 7)
    index = torch.nonzero(clips.label < 6)[::20, 0]
    owner = torch.arange(len(index))
    joints = tf.sample(clips, index, owner, owner * 0, torch.tensor([[0.0, 1.0]]).expand(len(index), 2), 32)
    flipped = au.swapped(joints, mirror) * torch.tensor([-1.0, 1, 1])
    one, other = ((of.amax(dim=1) - of.amin(dim=1)).norm(dim=2)[:, [6, 10]] for of in (joints, flipped))
    side = one.argmax(dim=1)  # which of the wrists goes farther
    assert bool((other.argmax(dim=1) == 1 - side).all())
    by_class = [set(side[clips.label[index] == label].tolist()) for label in range(6)]
    assert by_class == [{1 - label % 2} for label in range(6)] or by_class == [{label % 2} for label in range(6)]


def test_a_skeleton_of_which_a_joint_has_two_partners_is_not_mirrored() -> None:
    """Else one joint would stand in two places, and another nowhere."""
    odd = NTU25.model_copy(update={"pairs": (*NTU25.pairs, (4, 20))})
    assert au.mirror_of(odd, 6, SIDES) is None
    assert "a joint in two pairs" in no_mirror("mine.safetensors", odd)
    assert "no pairs" in no_mirror("mine.safetensors", NTU25.model_copy(update={"pairs": ()}))
    assert "nobody knows which" in no_mirror("mine.safetensors", NTU25)


def test_a_view_in_a_mirror_is_that_of_the_mirrored_recording_and_its_classes_change_back() -> None:
    """Mirrored before it is placed, or after: the same."""
    clips = read_irds()
    config = settings()
    mirror = mirror_for(config, description_of("irds", 9))
    flipped = clips.joints[:, list(mirror.joints)] * torch.tensor([-1, 1, 1], dtype=torch.int16)
    index = torch.arange(0, len(clips), 90)
    seen = next(iter(TestBatches(clips, index, 16, 99, mirror=mirror)))
    wanted = next(iter(TestBatches(dataclasses.replace(clips, joints=flipped), index, 16, 99)))
    torch.testing.assert_close(seen.streams["joint"], wanted.streams["joint"], rtol=0, atol=1e-5)
    assert torch.equal(seen.label, clips.label[index])
    said = torch.eye(9)[[0, 6, 8]]
    assert of_view(said, mirror).argmax(1).tolist() == [1, 6, 7]
    assert torch.equal(of_view(said, None), said)
    begins = [(begin, view is not None) for begin, view in Views(3, mirror).each()]
    assert begins == [(begin, flips) for begin in (0.0, pytest.approx(0.025), pytest.approx(0.05)) for flips in (False, True)]
    assert (Views(3, mirror).count, Views().count, list(Views().each())) == (6, 1, [(None, None)])
    with pytest.raises(DataError, match="synthetic has no mirror image: nobody knows"):
        mirror_for(settings(dataset="synthetic"), description_of("synthetic", 6))


def test_clips_are_spoilt_as_plain_numpy_would(some: Clips) -> None:
    index = torch.tensor([3, 8, 20])
    (plain_batch,) = TestBatches(some, index, 16, 9)
    assert torch.equal(
        next(iter(TestBatches(some, index, 16, 9, spoil=Spoil()))).streams["joint"], plain_batch.streams["joint"]
    )
    (batch,) = TestBatches(some, index, 16, 9, spoil=Spoil(noise=0.05, missing=0.2, motion=0.3))
    place = some.placement
    for row, (owner, body) in enumerate([(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]):
        clip = int(index[owner])
        person, length = 2 * clip + body, int(some.length[clip])
        start = int(some.start[clip]) + body * length
        raw = some.joints[start : start + length].double().numpy() / 1000
        at = (length - 1) * (0.025 + 0.95 * np.linspace(0, 1, 16))
        x = np.stack([[np.interp(at, np.arange(length), raw[:, j, a]) for a in range(3)] for j in range(25)])
        x = raw[0] + 0.3 * (x.transpose(2, 0, 1) - raw[0])
        noise = rng.normal(rng.key(0, rng.JITTER, 0), torch.tensor([person]), 16 * 75).view(16, 25, 3).double().numpy()
        x = (x - place.origin[clip].double().numpy() + 0.05 * noise) @ place.turn[clip].double().numpy().T
        hidden = rng.uniform(rng.key(0, rng.MASK_JOINTS, 0), torch.tensor([person]), 25)[0] < 0.2
        stands = list(range(25))
        for joint in range(25):
            while hidden[stands[joint]] and stands[joint] != 0:
                stands[joint] = PARENTS[stands[joint]]
        np.testing.assert_allclose(batch.streams["joint"][row].permute(1, 2, 0).numpy(), x[:, stands], atol=2e-4)


@pytest.mark.parametrize(
    ("dataset", "words", "told"),
    [
        (
            "synthetic",
            ["mirror=0.5"],
            r"mirror: found 0\.5; allowed: null: nobody knows which classes of synthetic change places",
        ),
        ("irds", ["limbs=1.5"], r"limbs: found 1\.5; allowed: "),
    ],
)
def test_an_augmentation_that_cannot_be_is_told(dataset: str, words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        settings(*(f"training.augmentations.{word}" for word in words), dataset=dataset)
