"""Whom a clip shows, against the rules worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from last_e.prepare.people import RULES, Clip, NobodyError, choose_people, take_people
from last_e.prepare.skeleton import parse
from tests.ntu_files import ANNA, BERT, GHOST, Points, Scene, motion, one_person, text_of, two_people

CALM, LIVELY = motion(3, 60) * [0.2, 1, 0.2], motion(40, 60) * [2, 1, 1]


def chosen(scene: Scene) -> Clip:
    return choose_people(parse(text_of(scene)))


def shows(clip: Clip, person: int, points: Points) -> bool:
    """Whether a person of the clip makes this movement (to a millimetre)."""
    return clip.joints.shape[1] == len(points) and np.abs(clip.joints[person] / 1000 - points).max() <= 0.001


def wide(points: Points) -> Points:
    """The same, lying: x and y exchanged."""
    return points[..., [1, 0, 2]]


def spread(points: Points) -> float:
    return sum(points[..., axis].var() for axis in range(3))


def test_one_person_is_that_person():
    clip = chosen(one_person(CALM))
    assert clip.joints.shape == (1, 60, 25, 3)
    assert clip.joints.dtype == np.int16
    assert shows(clip, 0, CALM)


def test_people_are_followed_by_id_and_the_livelier_comes_first():
    assert spread(LIVELY) > spread(CALM)
    clip = chosen(two_people(CALM, LIVELY))
    assert shows(clip, 0, LIVELY + np.array([1, 0, 0]))
    assert shows(clip, 1, CALM)
    clip = chosen(two_people(LIVELY, CALM))
    assert shows(clip, 0, LIVELY)


def test_of_three_the_two_liveliest_are_kept():
    middle = motion(3, 60)
    assert spread(CALM) < spread(middle) < spread(LIVELY)
    clip = chosen([[(GHOST, a), (ANNA, b), (BERT, c)] for a, b, c in zip(CALM, middle, LIVELY)])
    assert shows(clip, 0, LIVELY)
    assert shows(clip, 1, middle)


@pytest.mark.parametrize(("frames", "people"), [(11, 1), (12, 2)])
def test_a_body_seen_in_eleven_frames_or_fewer_is_dropped(frames, people):
    scene = one_person(CALM)
    for number in range(frames):
        scene[5 * number // 2].append((GHOST, LIVELY[number]))
    assert len(chosen(scene).joints) == people


def test_the_only_body_is_kept_however_short():
    assert shows(chosen(one_person(CALM[:5])), 0, CALM[:5])


def test_several_short_bodies_are_nobody():
    scene = one_person(CALM[:5]) + one_person(CALM[:6], BERT)
    with pytest.raises(NobodyError, match="nobody is seen in more than 11 frames"):
        chosen(scene)


@pytest.mark.parametrize(("wide_frames", "people"), [(697, 2), (698, 1)])
def test_a_body_wide_in_69_754_percent_of_its_frames_is_dropped(wide_frames, people):
    calm, lively = (np.repeat(motion(number, 1), 1000, axis=0) for number in (3, 40))
    lively[:wide_frames] = wide(lively[:wide_frames])
    assert len(chosen(two_people(calm, lively)).joints) == people


def test_the_only_body_may_be_wide_and_of_wide_ones_the_last_stays():
    assert shows(chosen(one_person(wide(CALM))), 0, wide(CALM))
    clip = chosen([[(ANNA, a), (BERT, b)] for a, b in zip(wide(LIVELY), wide(CALM))])
    assert len(clip.joints) == 1
    assert shows(clip, 0, wide(CALM))


def test_exactly_at_the_bound_a_frame_is_not_wide():
    points = np.zeros((60, 25, 3))
    points[:, 1] = [0.8, 1.0, 0.1]
    clip = chosen(two_people(points, CALM))
    assert len(clip.joints) == 2
    points[:, 1] = [0.801, 1.0, 0.1]
    assert len(chosen(two_people(points, CALM)).joints) == 1


def test_frames_with_nobody_are_cut():
    scene = one_person(CALM)
    for number in (0, 7, 8, 59):
        scene[number] = []
    assert shows(chosen(scene), 0, np.delete(CALM, [0, 7, 8, 59], axis=0))


def test_between_two_sightings_a_person_moves_straight_and_outside_they_stand():
    scene = [[(ANNA, a), (BERT, b)] for a, b in zip(LIVELY, CALM)]
    for number in [0, 1, 2, *range(10, 14), 58, 59]:
        del scene[number][1]
    second = CALM.copy()
    second[:3] = CALM[3]
    second[58:] = CALM[57]
    for step, number in enumerate(range(10, 14), 1):
        second[number] = CALM[9] + (CALM[14] - CALM[9]) * step / 5
    clip = chosen(scene)
    assert shows(clip, 0, LIVELY)
    assert shows(clip, 1, second)


def test_a_frame_whose_only_sighting_is_of_somebody_dropped_is_cut():
    scene = one_person(CALM)
    scene[20] = [(GHOST, LIVELY[0])]
    assert shows(chosen(scene), 0, np.delete(CALM, 20, axis=0))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, 33.0, -32.768])
def test_a_sighting_with_an_impossible_coordinate_counts_as_none(value):
    points = CALM.copy()
    points[30, 7, 2] = value
    clip = chosen(one_person(points))
    assert clip.unusable == 1
    assert shows(clip, 0, np.delete(CALM, 30, axis=0))


def test_nobody_is_an_error():
    with pytest.raises(NobodyError, match="nobody is seen"):
        chosen([[], []])
    with pytest.raises(NobodyError, match="nobody is seen"):
        chosen([])
    with pytest.raises(NobodyError, match="no sighting has usable coordinates"):
        chosen(one_person(CALM * np.nan))


def test_the_extremes_fit():
    points = np.full((15, 25, 3), 32.767)
    points[1] = -32.767
    clip = chosen(one_person(points))
    assert clip.joints.max() == 32767
    assert clip.joints.min() == -32767


def test_millimetres_in_16_bits_err_less_than_metres_in_float16():
    """Why the format holds int16: measured on real recordings where NTU's people stand, with the digits that NTU has."""
    random = np.random.default_rng(0)
    worst_int16 = worst_float16 = 0.0
    for number in range(0, 1400, 100):
        points = motion(number) + random.uniform(-0.0005, 0.0005, motion(number).shape)
        clip = chosen(one_person(points))
        exact = np.array([float(f"{value:.7g}") for value in points.ravel()]).reshape(points.shape)
        error = np.abs(clip.joints[0] / 1000 - exact).max() * 1000
        assert clip.error == pytest.approx(error, abs=1e-6)
        worst_int16 = max(worst_int16, error)
        worst_float16 = max(worst_float16, np.abs(points.astype(np.float16).astype(float) - points).max() * 1000)
    assert worst_int16 <= 0.5 + 1e-9
    assert worst_float16 > 0.9


def test_people_chosen_by_others_are_taken_as_they_are():
    joints = np.zeros((2, 80, 25, 3), dtype=np.float32)
    joints[0, :60] = CALM
    joints[1, 10:50] = LIVELY[10:50]
    clip = take_people(joints)
    assert shows(clip, 0, CALM), "the order stays, and padding at the end goes"
    assert shows(clip, 1, np.concatenate([LIVELY[[10] * 10], LIVELY[10:50], LIVELY[[49] * 10]]))
    joints[0] = 0
    clip = take_people(joints)
    assert shows(clip, 0, LIVELY[10:50])
    assert len(clip.joints) == 1
    with pytest.raises(NobodyError):
        take_people(np.zeros((2, 80, 25, 3)))


def test_where_ctr_gcns_own_code_does_something_else_the_written_rules_hold():
    """Each of the three differences that RULES names, and a file's header with it."""
    assert len(RULES["unlike CTR-GCN"]) == 3
    later = LIVELY[30:] + np.array([1, 0, 0])
    followed = [[(ANNA, a)] for a in CALM[:30]] + [[(BERT, a)] for a in later]
    assert len(chosen(followed).joints) == 2, "there, BERT would be ANNA going on"
    mixed = CALM.copy()
    mixed[:30] = wide(LIVELY[:30])  # half of its frames are wide, and in these it moves most
    assert spread(mixed[30:]) < spread(motion(3, 60)) < spread(mixed)
    assert shows(chosen([[(ANNA, a), (BERT, b)] for a, b in zip(motion(3, 60), mixed)]), 0, mixed), "there, ANNA is first"
    scene = [[(ANNA, a), (BERT, b)] for a, b in zip(LIVELY, CALM)]
    del scene[20][1]
    assert (chosen(scene).joints[1, 20] != 0).any(), "there, zeros"
