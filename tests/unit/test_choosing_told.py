"""Mistakes about the clips that validate and about early stops, told before training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from last_e.choosing import chosen_by, of_one_kind
from last_e.config import TrainConfig
from last_e.data import DataError, Split
from last_e.data.files import read_irds
from last_e.data.splits import parts_of
from last_e.data.synthetic import synthetic_clips
from last_e.datafile import check_file
from last_e.layers import resolve
from last_e.manifest import Manifest, best_of, to_keep
from last_e.metrics import read_metrics
from last_e.own_set import check_own
from last_e.problems import ConfigError
from last_e.reading import set_layer
from last_e.shipped import stands
from last_e.splits import Parts, cut_off
from tests.unit.test_own_sets import clips, resolved, written

WITH_PARTS = {
    "people": Split(test=[3], validation=[2]),
    "other": Split(test=[2], validation=[1]),
    "plain": Split(test=[3]),
}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data.validation=1.0"], "data.validation: found 1.0; allowed: "),
        (["data.validation=0"], "data.validation: found 0; allowed: "),
        (["data.validation=Part!"], "data.validation: found 'Part!'; allowed: "),
        (["data.validation=mine"], "a fraction, such as 0.2: only the file of an own set has parts with names"),
        (["data.validation_by=clip"], "data.validation_by: found 'clip'; allowed: only with a fraction in data.validation"),
        (["data.validation_seed=3"], "data.validation_seed: found 3; allowed: only with a fraction"),
        (["data.validation=0.2", "data.validation_by=camera"], "data.validation_by: found 'camera'"),
        (["training.patience=0"], "training.patience: found 0; allowed: a whole number"),
        (["training.min_delta=0.1"], "training.min_delta: found 0.1; allowed: only with training.patience"),
    ],
)
def test_what_cannot_be_said_of_choosing_is_told_with_its_key(words: list[str], told: str) -> None:
    layer, problems = set_layer(["dataset=irds", *words])
    with pytest.raises(ConfigError) as error:
        resolve([layer], TrainConfig, problems, detect=lambda: ("local", ""))
    assert told in str(error.value)


def test_a_split_with_a_validation_part_chooses_there_unless_the_job_says_otherwise(tmp_path: Path) -> None:
    path = written(tmp_path / "own.safetensors", splits=WITH_PARTS)
    found = {
        split: resolved(f"dataset={path}", *words).config.data.validation
        for split, words in {
            "first": [],
            "other": ["split_type=other"],
            "plain": ["split_type=plain"],
            "none": ["data.validation=null"],
            "said": ["data.validation=0.4", "data.validation_by=clip"],
        }.items()
    }
    assert found == {"first": "people", "other": "other", "plain": None, "none": None, "said": 0.4}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data.validation=plain"], "no split plain with a validation part; the splits that have one are other, people"),
        (["split_type=plain", "data.validation=nobody"], "no split nobody with a validation part; the splits that have"),
        (["split_type=other", "data.validation=people"], "4 clips of the validation part of people test"),
        (["split_type=plain", "data.validation=0.5", "training.batch_size=9"], "allowed: at most 4 clips a step"),
    ],
)
def test_a_set_that_cannot_be_cut_so_is_refused_before_there_is_a_job(tmp_path: Path, words: list[str], told: str) -> None:
    path = written(tmp_path / "own.safetensors", splits=WITH_PARTS)
    config = resolved(f"dataset={path}", "training.batch_size=4", *words).config
    with pytest.raises(DataError) as error:
        check_file(config, path, check_own)
    assert told in str(error.value)


def test_of_one_subject_no_fraction_of_subjects_is_drawn(tmp_path: Path) -> None:
    path = written(tmp_path / "own.safetensors", list(clips(subject=7)), splits={"it": Split("clip", test=0.25)})
    config = resolved(f"dataset={path}", "training.batch_size=4", "data.validation=0.2").config
    with pytest.raises(DataError, match=r"of one subject, or nobody knows of whom; draw clips .* data.validation_by: clip"):
        check_file(config, path, check_own)
    check_file(resolved(f"dataset={path}", "training.batch_size=4", "data.validation=0.2", "data.validation_by=clip").config,
               path, check_own)  # fmt: skip


def test_a_part_that_lacks_a_class_is_told() -> None:
    label, performer = np.array([0, 0, 1, 1, 2, 2]), np.array([1, 1, 2, 2, 3, 9])
    parts = Parts(performer < 9, performer == 9)
    cut = cut_off(parts, 0.3, None, None, label=label, performer=performer, named={})
    assert cut.validation is not None
    assert [len(set(performer[cut.validation])), int(cut.train.sum() + cut.validation.sum())] == [1, 5]
    assert len(cut.notes) == 2
    assert cut.notes[0].startswith("data.validation: classes without a clip to train: ")
    assert cut.notes[1].startswith("data.validation: classes without a clip to validate: ")
    with pytest.raises(ValueError, match="mine of 5 clips leaves none to validate"):
        cut_off(parts, "mine", None, None, label=label, performer=performer, named={"mine": performer > 99})


def test_fewer_train_and_the_same_test() -> None:
    clips = read_irds()

    def parts(*words: str) -> Parts:
        return parts_of(clips, resolved("dataset=irds", *words).config)

    whole, subject, label = parts(), clips.performer.numpy(), clips.label.numpy()
    two, three, other = (parts(f"data.train_subjects={n}", f"data.train_seed={seed}") for n, seed in ((2, 1), (3, 1), (2, 2)))
    assert [len(set(subject[one.train])) for one in (whole, two, three)] == [8, 2, 3]
    assert (two.train <= three.train).all()
    assert (three.train <= whole.train).all()
    assert (two.train != other.train).any()
    for one in (two, three, other):
        assert (one.test == whole.test).all()
        assert (one.train == (whole.train & np.isin(subject, subject[one.train]))).all()  # all clips of theirs
    both = parts("data.train_subjects=3", "data.train_clips=5", "training.seed=1")  # by which it is drawn where nobody says
    assert np.bincount(label[both.train]).tolist() == [5] * 9
    assert (both.train <= three.train).all()
    some = parts("data.train_subjects=4", "data.validation=0.5")
    assert some.validation is not None
    assert [len(set(subject[mask])) for mask in (some.train, some.validation)] == [2, 2]
    with pytest.raises(DataError, match=r"data\.train_subjects: found 9; allowed: at most 8, all that would train"):
        parts("data.train_subjects=9")


def test_who_trains_standing_tests_seated() -> None:
    clips, stand = read_irds(), stands()
    whole = parts_of(clips, resolved("dataset=irds").config)
    for position, here in (("standing", stand), ("seated", ~stand)):
        one = parts_of(clips, resolved("dataset=irds", f"data.train_position={position}").config)
        assert (one.train == (whole.train & here)).all()
        assert (one.test == (whole.test & ~here)).all()
    with pytest.raises(DataError, match=r"data\.train_position: found standing; allowed: null: positions are known of the "):
        parts_of(synthetic_clips(9), resolved("dataset=irds", "data.train_position=standing").config)


def test_the_best_is_kept_by_what_it_was_chosen_by() -> None:
    tops = [(0.9, 0.1), (0.2, 0.8), (0.3, 0.7)]
    found = [
        Manifest(step=step, epoch=step, evaluated=True, test_top1=test, validation_top1=validation)
        for step, (test, validation) in enumerate(tops, 1)
    ]
    assert to_keep(found, 1) == [False, True, True]
    # It has gone on with clips to validate: what was seen of test clips before is no match for them.
    before = Manifest(step=0, epoch=0, evaluated=True, test_top1=0.95)
    assert to_keep([before, *found], 1) == [False, False, True, True]
    assert best_of([before, *found]) is found[1]
    assert best_of([*found[:1], Manifest(step=9, epoch=9, evaluated=False)]) is found[0]
    assert best_of([]) is None
    scored = [{"epoch": 1, "test_top1": 0.95}, {"epoch": 2, "validation_top1": 0.5}, {"epoch": 3, "validation_top1": 0.4}]
    assert of_one_kind(scored) == scored[1:]
    assert of_one_kind(scored[:1]) == scored[:1]
    assert of_one_kind([]) == []
    lines = '{"epoch": 1, "step": 2, "validation_top1": 0.5, "validation_top5": 1.0, "test_top1": null, "test_top5": null}\n'
    lines += '{"epoch": 2, "step": 4, "validation_top1": null, "test_top1": 0.25, "test_top5": 1.0}\n{"epoch": 3, "step": 6}\n'
    assert [chosen_by(line) for line in read_metrics(lines)] == [0.5, 0.25]
    plain = Manifest(step=1, epoch=1, evaluated=True, test_top1=0.5)
    assert "validation" not in plain.to_json()  # versions that know nothing of it read it
