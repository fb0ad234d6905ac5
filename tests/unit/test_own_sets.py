"""Own data sets: written from arrays, read back, and all that a job needs; skeletons of any kind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from last_e import cli
from last_e.config import TrainConfig
from last_e.data import DataError, OwnClip, Skeleton, Split, load_clips, read_clips, write_clips, write_dataset
from last_e.data import transform as tf
from last_e.data.batches import TrainBatches
from last_e.data.splits import held_out, train_mask
from last_e.events import Discard
from last_e.layers import resolve
from last_e.model import build_model, receptive_field
from last_e.own_set import check_own, mistakes_in, read_own
from last_e.prepare.synth import synthesize
from last_e.problems import ConfigError
from last_e.reading import set_layer
from last_e.skeletons import COCO17, LAYOUTS, NTU25
from last_e.stop import Stop
from last_e.train import run
from runner.errors import UsageError
from runner.plan.bench import _config
from runner.plan.clips import data_of
from runner.resolve import resolve_points, resolve_spec

VARIANTS = ("nano", "small", "base", "large")
PEOPLE = {"people": Split(test=[3])}


def walk(frames: int = 20, joints: int = 17, seed: int = 0, sides: int = 3) -> np.ndarray[Any, Any]:
    """(T, V, D) metres: joints that sway, in place of a walk."""
    random = np.random.default_rng(seed)
    at, swing = random.uniform(-1, 1, (2, 1, joints, sides))
    return at + 0.1 * swing * np.sin(np.arange(frames) / 3)[:, None, None]


def clips(count: int = 16, **changes: Any) -> Iterator[OwnClip]:
    """Clips of two classes in turn, four of each subject."""
    for number in range(count):
        yield OwnClip(
            **{"joints": walk(seed=number), "label": number % 2, "name": f"c{number}", "subject": number // 4} | changes
        )


def written(path: Path, some: Any = None, **changes: Any) -> Path:
    """A set of COCO's joints."""
    told = {"classes": ["sit", "stand"], "skeleton": "coco17", "splits": PEOPLE} | changes
    write_dataset(path, clips() if some is None else some, **told)
    return path


def resolved(*words: str) -> Any:
    layer, problems = set_layer(words)
    return resolve([layer], TrainConfig, problems, detect=lambda: ("local", ""))


# --- skeletons -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_every_layout_is_one_tree_with_two_like_sides(layout: str) -> None:
    skeleton = LAYOUTS[layout]
    assert len(skeleton.bones) == len(skeleton.joints) - 1
    names = skeleton.joints
    assert all((names[a].removeprefix("left_"), "right_") == (names[b].removeprefix("right_"), names[b][:6])
               for a, b in skeleton.pairs)  # fmt: skip
    assert {number for pair in skeleton.pairs for number in pair} == {n for n, name in enumerate(names) if "_" in name
                                                                      and name.split("_")[0] in ("left", "right")}  # fmt: skip
    assert [names[joint] for joint in skeleton.pairs[0]] == ["left_shoulder", "right_shoulder"]
    other = {a: b for pair in skeleton.pairs for a, b in (pair, pair[::-1])}
    parents = skeleton.parents
    for left, right in skeleton.pairs:
        assert other.get(parents[left], parents[left]) == parents[right], names[left]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_builds_itself_on_any_skeleton(variant: str) -> None:
    original = build_model(variant, 7)
    edges = sum(value.numel() for name, value in original.named_parameters() if name.endswith("gcn.edge"))
    others = sum(value.numel() for value in original.parameters()) - edges
    for skeleton in set(LAYOUTS.values()):
        model = build_model(variant, 7, skeleton).eval()
        count = len(skeleton.joints)
        assert sum(value.numel() for value in model.parameters()) == others + edges // 25**2 * count**2
        streams = tf.to_streams(torch.randn(2, 16, count, 3, generator=torch.Generator().manual_seed(0)), skeleton)
        out = model(streams)
        assert out.shape == (2, 7)
        assert torch.isfinite(out).all()
        assert receptive_field(model) >= 3


def test_subsets_and_bones_are_those_of_the_skeleton() -> None:
    chain = Skeleton(joints=("a", "b", "c", "d"), bones=((0, 1), (2, 1), (3, 2)), centre=1)
    assert chain.parents == (1, 1, 1, 2)
    model = build_model("small", 3, chain)
    apart = torch.tensor([[0, 1, 2, 3], [1, 0, 1, 2], [2, 1, 0, 1], [3, 2, 1, 0]])
    first = model.stages[0][0].gcn.A
    assert [(first[hop] != 0).tolist() for hop in range(3)] == [(apart == hop).tolist() for hop in range(3)]
    joints = torch.arange(12.0).view(1, 1, 4, 3)
    bone = tf.to_streams(joints, chain)["bone"][0, :, 0].T
    assert bone.tolist() == [[-3, -3, -3], [0, 0, 0], [3, 3, 3], [3, 3, 3]]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"bones": ((0, 1),)}, "no way along bones from the centre (a) to c"),
        ({"bones": ((0, 1), (1, 9))}, "bones: no joint 9: there are 3, from 0"),
        ({"bones": ((0, 1), (1, 1), (1, 2))}, "bones: a joint with itself"),
        ({"joints": ("a", "a", "c")}, "joints named twice: a"),
        ({"centre": 5}, "centre: no joint 5"),
    ],
)
def test_a_skeleton_that_is_none_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match="Skeleton") as error:
        Skeleton(**{"joints": ("a", "b", "c"), "bones": ((0, 1), (1, 2))} | changes)
    assert told in str(error.value)


def test_ntus_skeleton_is_what_the_trainer_always_had() -> None:
    from last_e.joints import BONES, PARENTS

    assert (NTU25.bones, NTU25.parents, NTU25.centre, NTU25.measure, NTU25.pairs[0]) == (
        BONES,
        tuple(PARENTS),
        0,
        (0, 2),
        (4, 8),
    )


# --- writing ---------------------------------------------------------------------------------------------------------


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = written(tmp_path / "own.safetensors", fps=25, source="a camera in the hall")
    found = read_clips(path, 2)
    assert len(found) == 16
    assert found.label.tolist() == [0, 1] * 8
    assert found.performer.tolist() == [number // 4 for number in range(16)]
    for number in range(16):
        begin = int(found.start[number])
        assert np.abs(found.joints[begin : begin + 20].numpy() / 1000 - walk(seed=number)).max() <= 0.0005
    about = found.description
    assert about is not None
    assert (about.name, about.classes, about.fps, about.people) == ("own", ("sit", "stand"), 25, 1)
    assert (about.skeleton, about.splits, about.source) == (COCO17, {"people": "by subject: test 3"}, "a camera in the hall")
    assert train_mask(found, "own.safetensors", "people").tolist() == [True] * 12 + [False] * 4


def test_several_people_and_texts_for_labels_and_subjects(tmp_path: Path) -> None:
    several = [
        OwnClip(np.stack([walk(seed=5 * n + m) for m in range(1 + n % 3)]), ["sit", "stand"][n % 2], subject="abc"[n % 3])
        for n in range(12)
    ]
    path = written(tmp_path / "own.safetensors", several, splits={"people": Split(train=["a", "b"])})
    found = read_clips(path, 2)
    assert found.people == 3
    assert found.bodies.tolist() == [1, 2, 3] * 4
    assert found.label.tolist() == [0, 1] * 6
    assert train_mask(found, "own", "people").tolist() == [True, True, False] * 4
    last = found.joints[-20:].numpy() / 1000
    assert np.abs(last - walk(seed=57)).max() <= 0.0005


def test_joints_that_are_not_seen_are_guessed_from_others(tmp_path: Path) -> None:
    joints = walk(6)
    joints[:, 0] = np.arange(6)[:, None]  # the nose goes its way
    gaps = joints.copy()
    gaps[2:4, 0] = np.nan  # between two sightings
    gaps[:2, 7] = np.nan  # before the first
    gaps[:, 9] = np.nan  # never: the wrist lies where the elbow is
    gaps[5] = np.nan  # nobody is there
    some = [OwnClip(gaps, 0), OwnClip(joints, 1), OwnClip(np.full((4, 17, 3), np.nan), 1)]
    report = write_dataset(tmp_path / "own.safetensors", some, classes=["a", "b"], skeleton=COCO17,
                           splits={"clips": Split("clip", test=["clip-000001"])})  # fmt: skip
    found = read_clips(tmp_path / "own.safetensors", 2)
    assert found.length.tolist() == [5, 6]
    first = found.joints[:5].numpy() / 1000
    assert first[:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert np.allclose(first[:3, 7], joints[2, 7], atol=0.001)
    assert (first[:, 9] == first[:, 7]).all()
    assert report.missing == {"nose": 2 / 11, "left_elbow": 2 / 11, "left_wrist": 5 / 11}
    assert report.left_out == ["clip-000002: nobody is seen in any frame"]


@pytest.mark.parametrize(("units", "factor"), [("pixels", 4), ("image", 2000)])
def test_clips_of_two_dimensions_stand_upright_and_stay_flat(units: str, factor: int, tmp_path: Path) -> None:
    flat = [OwnClip(np.abs(walk(seed=n, sides=2)), n % 2, subject=n) for n in range(4)]
    written(tmp_path / "own.safetensors", flat, units=units)
    found = read_clips(tmp_path / "own.safetensors", 2)
    assert np.abs(found.joints[:20, :, :2].numpy() / (factor, -factor) - flat[0].joints).max() <= 0.5 / factor
    assert (found.joints[..., 2] == 0).all()
    assert found.is_flat
    assert np.allclose(found.placement.turn[:, 0, 2], 0)  # nobody is turned out of the image


UNLIKE = [
    ({"some": [OwnClip(walk(), 2, "x"), OwnClip(walk(), "lie", "y"), OwnClip(walk(), 1, "z"), OwnClip(walk(), 1, "z")]},
     ["clip x: label 2 has no name: the classes are 0 to 1", "clip y: label 'lie' has no name", "clip z: there already"]),
    ({"some": clips(joints=walk(joints=25))}, ["its joints are (1, 20, 25, 3); allowed: (people, frames, 17, 3), in metres"]),
    ({"some": clips(joints=400 * walk())}, ["metres; allowed: at most 33; are they pixels? Then say so (units)"]),
    ({"splits": {"people": Split(test=[9])}}, ["split people: no subject is called 9"]),
    ({"splits": {"people": Split(test=[0, 1, 2, 3])}}, ["split people: no clip to train"]),
    ({"splits": {"people": Split()}}, ["split people: say who trains, or who tests"]),
    ({"splits": {}}, ["splits: found {}; allowed: at least 1 of them"]),
    ({"classes": ["sit"], "units": "feet"}, ["('sit',); allowed: at least 2 of them", "units: found 'feet'; allowed: "]),
    ({"classes": ["sit", "sit"]}, ["classes named twice: sit"]),
    ({"mirrored": [("sit", "lie")]}, ["mirrored: no class is called lie; they are sit, stand"]),
    ({"mirrored": [("sit", "stand"), ("stand", "sit")]}, ["mirrored: pairs of two classes each, 0 to 1, each class once"]),
    ({"skeleton": "coco"}, ["skeleton: found 'coco'; allowed: ntu25, kinect25, kinect20, coco17"]),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "told"), UNLIKE, ids=[told[0][:40] for _, told in UNLIKE])
def test_mistakes_are_told_together_and_nothing_is_left(changes: dict[str, Any], told: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        written(tmp_path / "own.safetensors", **changes)
    assert [part for part in told if part not in str(error.value)] == [], str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"label": float("nan")}, "label nan"),
        ({"label": float("inf")}, "label inf"),
        ({"label": None}, "label None"),
        ({"subject": 10**30}, "subject 1000000000000000000000000000000 is no text"),
        ({"subject": None}, "subject None is no text"),
        ({"camera": float("inf")}, "camera inf is no whole number"),
        ({"camera": 10**30}, "camera 1000000000000000000000000000000 is no whole number"),
        ({"name": 7}, "its name is 7, no text"),
    ],
)
@pytest.mark.parametrize("classes", [None, ["sit", "stand"]])
def test_a_clip_that_says_what_cannot_be_is_a_mistake_like_any(
    changes: dict[str, Any], told: str, classes: Any, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=re.escape(told)):
        written(tmp_path / "own.safetensors", [*clips(), OwnClip(**{"joints": walk(), "label": 1} | changes)], classes=classes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"splits": {"a": Split(test=1)}}, "split a: test is 1; it is a list, or a fraction"),  # type: ignore[arg-type]
        ({"splits": {"a": Split(test=[1], validation=1)}}, "split a: validation is 1;"),  # type: ignore[arg-type]
        ({"splits": {"a": Split(test="anna")}}, "split a: test is 'anna';"),
        ({"splits": {"a": Split(train="anna")}}, "split a: train is 'anna';"),
        ({"splits": {"a": Split(test=np.array([1, 2]))}}, "split a: test is array"),  # type: ignore[arg-type]
        ({"splits": {"a": Split("room", test=[1])}}, "split a: by 'room'"),  # type: ignore[arg-type]
        ({"classes": "sit"}, "classes is 'sit'; it is a list of names"),
        ({"classes": 2}, "classes is 2; it is a list of names"),
    ],
)
def test_a_description_that_says_what_cannot_be_is_refused(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(told)):
        written(tmp_path / "own.safetensors", **changes)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("joints", "shape", [5, 0, 3]),
        ("joints", "shape", [5, float("inf"), 3]),
        ("joints", "data_offsets", [0, float("inf")]),
        ("label", "dtype", "F64"),
        ("performer", "dtype", "BOOL"),
        ("train.people", "dtype", "U8"),
    ],
)
def test_a_header_that_says_what_cannot_be_is_told(name: str, key: str, value: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "own.safetensors")
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header[name][key] = value
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(ConfigError, match=r"not a prepared data file, or a damaged one|cut short"):
        resolved(f"dataset={path}")


def test_a_half_written_set_never_has_the_files_name_and_another_is_not_replaced(tmp_path: Path) -> None:
    def breaks() -> Iterator[OwnClip]:
        yield from clips(300)
        raise KeyError("a camera")

    path = tmp_path / "own.safetensors"
    with pytest.raises(KeyError):
        written(path, breaks())
    assert list(tmp_path.iterdir()) == []
    written(path)
    before = path.read_bytes()
    written(path)  # the same once more
    assert path.read_bytes() == before
    with pytest.raises(DataError, match=r"which the result would replace: .*overwrite"):
        written(path, clips(12), splits={"people": Split(test=[2])})
    assert path.read_bytes() == before
    written(path, clips(12), splits={"people": Split(test=[2])}, overwrite=True)
    assert len(read_clips(path, 2)) == 12


def test_memory_does_not_grow_with_the_clips(tmp_path: Path) -> None:
    joints = walk(120)
    joints = walk(120)
    tracemalloc.start()
    try:
        written(tmp_path / "own.safetensors", (OwnClip(joints, n % 2, subject=n % 4) for n in range(2000)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = (tmp_path / "own.safetensors").stat().st_size
    assert size > 24_000_000
    assert peak < size / 2


def test_the_writer_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, last_e.data; last_e.data.write_dataset, last_e.data.OwnClip; print({'torch', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", ["own", "own.npz", "-own.safetensors", "größe.safetensors"])
def test_a_set_has_a_name_by_which_jobs_know_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a set's file is called NAME\.safetensors"):
        written(tmp_path / name)


# --- splits ----------------------------------------------------------------------------------------------------------


def masks(path: Path, some: Any, split: Split) -> tuple[list[bool], list[bool], list[bool]]:
    """Which clips, by their order in ``c0, c1, ...``, train, validate and test."""
    written(path, some, splits={"it": split}, overwrite=True)
    found = read_clips(path, 2)
    train = train_mask(found, "own", "it")
    validation = found.validation.get("it", torch.zeros_like(train))
    return train.tolist(), validation.tolist(), held_out(found, train, "it").tolist()


@pytest.mark.parametrize("by", ["subject", "clip"])
def test_a_fraction_is_drawn_by_its_seed_alone(by: Any, tmp_path: Path) -> None:
    path, some = tmp_path / "own.safetensors", list(clips(40))
    train, validation, test = masks(path, some, Split(by, test=0.2, validation=0.1, seed=1))
    assert all(sum(parts) == 1 for parts in zip(train, validation, test))
    assert (sum(train), sum(validation), sum(test)) == (28, 4, 8)
    backwards = masks(path, some[::-1], Split(by, test=0.2, validation=0.1, seed=1))
    assert tuple(part[::-1] for part in backwards) == (train, validation, test)
    assert masks(path, some, Split(by, test=0.2, validation=0.1, seed=2)) != (train, validation, test)
    unit = [number // 4 if by == "subject" else number for number in range(40)]
    assert not {unit[n] for n in range(40) if test[n]} & {unit[n] for n in range(40) if not test[n]}
    if by == "clip":
        assert sum(test[::2]) == sum(test[1::2]) == 4  # of each class alike


def test_a_split_by_lists(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    train, validation, test = masks(path, clips(), Split("clip", train=["c0", "c1", "c2", "c3"], validation=["c1"]))
    assert (train, validation) == ([True, False, True, True] + [False] * 12, [False, True] + [False] * 14)
    assert test == [False] * 4 + [True] * 12


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_clips_are_chosen_by_names_of_any_kind_and_length(tmp_path: Path) -> None:
    names = ["gehen-ü", "歩く", *("x" * 300 + end for end in "abcdef")]
    some = [OwnClip(walk(seed=number), number % 2, name) for number, name in enumerate(names)]
    _, _, tests = masks(tmp_path / "own.safetensors", some, Split("clip", test=[names[0], names[1], names[3]]))
    assert tests == [True, True, False, True, False, False, False, False]


def test_a_clip_that_shows_nobody_may_be_named_by_a_split(tmp_path: Path) -> None:
    def some() -> Iterator[OwnClip]:
        yield from clips()
        yield OwnClip(np.full((9, 17, 3), np.nan), 0, "dark", subject="nobody")

    _, validation, tests = masks(
        tmp_path / "own.safetensors", some(), Split("clip", test=["c1", "c2", "dark"], validation=["c3"])
    )
    assert (np.flatnonzero(tests).tolist(), np.flatnonzero(validation).tolist()) == ([1, 2], [3])
    _, _, tests = masks(tmp_path / "own.safetensors", some(), Split(test=[1, "nobody"]))
    assert np.flatnonzero(tests).tolist() == [4, 5, 6, 7]
    with pytest.raises(DataError, match="no subject is called dark"):
        masks(tmp_path / "own.safetensors", some(), Split(test=[1, "dark"]))


def test_what_is_doubtful_is_told_and_written_all_the_same(tmp_path: Path) -> None:
    flat = walk(sides=3) * (1, 1, 0)
    some = [OwnClip(flat, int(n > 36), subject=n % 3) for n in range(40)]
    report = write_dataset(tmp_path / "own.safetensors", some, classes=["a", "b", "c"], skeleton="coco17",
                           splits={"it": Split("clip", train=[f"clip-{n:06}" for n in range(20)])})  # fmt: skip
    assert report.warnings == [
        "class 0 (a) holds 92% of the clips: accuracy will tell little",
        "classes without a clip: c",
        "split it: classes without a clip to train: b",
        "split it: 3 subjects both to train and to test: 0, 1, 2",
        "z hardly changes: coordinates of an image, which are pixels or image, not metres (units)?",
    ]


def test_labels_without_a_name_in_anybodys_file_are_told_with_all_else(tmp_path: Path) -> None:
    good = read_clips(written(tmp_path / "own.safetensors"), 2)
    bad = {**vars(good), "label": torch.tensor([0, 1, 2, 5] * 4), "own_splits": {"people": torch.ones(16, dtype=torch.bool)}}
    write_clips(type(good)(**{name: bad[name] for name in good.__dataclass_fields__}), tmp_path / "bad", {"data_sha256": "0"})
    (tmp_path / "bad").rename(tmp_path / "bad.safetensors")
    with pytest.raises(ConfigError) as error:
        resolved(f"dataset={tmp_path / 'bad.safetensors'}", "training.lr=-1")
    told = str(error.value)
    assert "8 labels without a name: 2 to 5, and the classes are 0 to 1" in told
    assert "split people: no clip to test" in told
    assert "training.lr" in told


# --- a job -----------------------------------------------------------------------------------------------------------


def test_a_job_takes_all_from_the_file(tmp_path: Path) -> None:
    path = written(
        tmp_path / "own.safetensors", classes=["sit", "stand", "lie"], splits=PEOPLE | {"some": Split("clip", test=0.5)}
    )
    found = resolved(f"dataset={path}")
    flat = found.items()
    assert (flat["dataset"], flat["data.uri"], flat["split_type"]) == ("own.safetensors", str(path), "people")
    assert (flat["data.num_classes"], flat["data.splits"], flat["data.joints"]) == (3, ["people", "some"], 17)
    assert str(found.origins["data.num_classes"]) == str(path)
    with path.open("rb") as file:
        assert flat["data.content"] == read_own(file, path.stat().st_size, path).content
    assert found.of_data == [f"warning: {path}: classes without a clip: lie"]
    named = resolved("dataset=own.safetensors", f"hardware.data_root={tmp_path}")
    assert named.items()["data.content"] == flat["data.content"]
    with pytest.raises(ConfigError, match=r"split_type: found 'xsub'; allowed: one of people, some"):
        resolved(f"dataset={path}", "split_type=xsub")


def test_a_set_that_is_nowhere_is_told_with_every_place_in_which_it_was_looked_for(tmp_path: Path) -> None:
    for name in ("jobs", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "jobs" / "job.yaml").write_text(
        f"model: nano\ndataset: my.safetensors\nhardware: {{data_root: {tmp_path}/data}}\n"
    )
    with pytest.raises(ConfigError) as error:
        resolve_spec(tmp_path / "jobs" / "job.yaml", "local", [])
    told = str(error.value)
    assert f"no file my.safetensors beside the job, in {tmp_path}/jobs, nor in {tmp_path}/data (hardware" in told


def test_a_set_that_is_named_later_is_not_looked_for_where_an_earlier_one_was(tmp_path: Path) -> None:
    one, other = written(tmp_path / "one.safetensors"), written(tmp_path / "other.safetensors", clips(20))
    lower = set_layer([f"data.uri={one}", "dataset=one.safetensors"])[0]

    def with_more(*words: str) -> dict[str, Any]:
        return resolve([lower, set_layer(words)[0]], TrainConfig, [], detect=lambda: ("local", "")).items()

    found = with_more(f"dataset={other}")
    assert (found["dataset"], found["data.uri"]) == ("other.safetensors", str(other))
    assert found["data.content"] == resolved(f"dataset={other}").items()["data.content"]
    found = with_more("dataset=other.safetensors", f"hardware.data_root={tmp_path}")
    assert (found["data.uri"], found["data.content"]) == (None, resolved(f"dataset={other}").items()["data.content"])
    assert with_more("dataset=irds", "split_type=xsub")["data.uri"] is None
    assert with_more("dataset=other.safetensors", f"data.uri={other}")["data.uri"] == str(other)
    assert with_more(f"data.uri={other}")["data.uri"] == str(other)
    job = tmp_path / "job.yaml"
    job.write_text("model: nano\ndataset: one.safetensors\ndata: {uri: one.safetensors}\ntraining: {batch_size: 4}\n"
                   "sweep: {grid: {dataset: [one.safetensors, other.safetensors]}}\n")  # fmt: skip
    points = [point.job.items() for point in resolve_points(job, None, []).points]
    assert [point["data.uri"] for point in points] == [str(one), str(other)]
    job.write_text("model: nano\ndataset: ntu60\ndata: {uri: one.safetensors}\n")
    assert resolve_spec(job, None, ["dataset=ntu120"]).items()["data.uri"] == str(one)  # as ever of those known here


def test_the_trainer_takes_no_other_set_of_the_same_name(tmp_path: Path) -> None:
    path = written(tmp_path / "own.safetensors")
    config = resolved(f"dataset={path}", "training.batch_size=4").config
    assert len(load_clips(config)) == 16
    written(path, clips(joints=walk()), overwrite=True)
    with pytest.raises(DataError, match="it is not the set that the job was made with: other clips"):
        load_clips(config)


def test_the_trainer_alone_takes_a_set_that_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "own.safetensors")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["--dataset", "own.safetensors", "--split_type", "xsub", "--epochs", "0"]) == cli.USAGE
    told = capsys.readouterr().err.splitlines()
    assert [line.split(": found")[0] for line in told] == [
        "error: --epochs: training.epochs",
        "error: --split_type: split_type",
    ]
    assert "one of people (for dataset own.safetensors)" in told[1]


def test_a_plan_counts_a_validation_part_of_its_own_apart_from_those_that_train(tmp_path: Path) -> None:
    """The part of a file does not train anyway; a part that is cut off does without those who would."""
    path = written(tmp_path / "own.safetensors", splits={"own": Split("clip", test=0.25, validation=0.25, seed=1)})
    own = data_of([resolved(f"dataset={path}", "data.validation=own").config])
    assert "out of those" not in own.source
    cut = data_of([resolved(f"dataset={path}", "data.validation=0.25", "data.validation_by=clip").config])
    assert f"{own.counts.train} clips to train and {own.counts.test} to validate, " in own.source
    assert f"{cut.counts.train} clips to train and {cut.counts.test} to validate, out of those that would train, " in cut.source
    assert "that would (" not in own.source + cut.source, "nothing was chosen among them"


def test_what_is_made_up_has_the_joints_of_ntu_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "own.safetensors")
    with pytest.raises(DataError, match="a set of your own; what is made up has NTU's joints"):
        synthesize(str(path), tmp_path / "out")
    with pytest.raises(UsageError, match="a set of your own, and what is measured has NTU's joints"):
        _config("nano", "local", [], path, [])


def test_a_set_is_looked_for_here_though_the_profile_is_of_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = tmp_path / "lastrun" / "data"
    root.mkdir(parents=True)
    path = written(root / "own.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache").symlink_to(tmp_path)
    found = resolved("dataset=own.safetensors", "env=kaggle")
    assert str(found.origins["data.content"]) == str(tmp_path / ".cache/lastrun/data" / path.name)
    assert found.config.data.uri is None  # there it is looked for by its name


@pytest.mark.parametrize("units", ["metres", "pixels"])
def test_batches_of_a_set_of_several_people(units: str, tmp_path: Path) -> None:
    sides = 3 if units == "metres" else 2
    some = [
        OwnClip(np.stack([walk(30, seed=4 * n + m, sides=sides) for m in range(1 + n % 4)]), n % 2, subject=n % 4)
        for n in range(16)
    ]
    found = read_clips(written(tmp_path / "own.safetensors", some, units=units), 2)
    words = ("model=nano", f"dataset={tmp_path / 'own.safetensors'}", "training.batch_size=8", "training.input_frames=16")
    config = resolved(*words).config.training
    index = torch.arange(16)
    whole = next(TrainBatches(found, index, config, None, (4, 3)).epoch(0))[0]
    rows = int(whole.owner.bincount().sum())
    assert {name: tuple(stream.shape) for name, stream in whole.streams.items()} == dict.fromkeys(
        ("joint", "velocity", "bone"), (rows, 3, 16, 17)
    )
    assert whole.row_weight is not None
    assert torch.allclose(torch.zeros(8).index_add_(0, whole.owner, whole.row_weight), torch.ones(8))
    assert (whole.streams["bone"][..., 0] == 0).all()  # COCO's nose is its root
    flat = bool((whole.streams["joint"][:, 2] == 0).all())
    assert flat is (units == "pixels")
    parts = next(TrainBatches(found, index, config, 3, (4, 3)).epoch(0))
    assert torch.equal(torch.cat([part.streams["joint"] for part in parts]), whole.streams["joint"])
    # Nobody's noise is another's: what is drawn for each person of each clip differs.
    noise = tf.jitter(7, index.repeat_interleave(4), torch.arange(4).repeat(16), 2, joints=17, people=4)
    assert len({tuple(one.flatten().tolist()) for one in noise}) == 64


def test_a_set_that_says_what_changes_places_in_a_mirror_can_be_mirrored(tmp_path: Path) -> None:
    said, silent = (
        written(tmp_path / f"{name}.safetensors", **more) for name, more in (("a", {"mirrored": [("stand", "sit")]}), ("b", {}))
    )
    with said.open("rb") as file:
        one = read_own(file, said.stat().st_size, said)
    with silent.open("rb") as file:
        other = read_own(file, silent.stat().st_size, silent)
    assert (one.description.mirrored, other.description.mirrored) == (((1, 0),), None)
    assert one.content != other.content, "it decides what is learned"
    assert b"mirrored" not in silent.read_bytes(), "who does not say it has the file that was written before"
    word = "training.augmentations.mirror=0.5"
    for path, whole in ((said, one), (silent, other)):
        config = resolved(f"dataset={path}", "training.batch_size=4", word).config
        with path.open("rb") as file:
            if path == said:
                check_own(config, file, path.stat().st_size, path)
                continue
            with pytest.raises(DataError, match=r"mirror: it has no mirror image: nobody knows which .* made \(mirrored\)"):
                check_own(config, file, path.stat().st_size, path)
        assert whole is other
        with pytest.raises(DataError, match="has no mirror image"):  # whoever starts the trainer alone
            run(config, tmp_path / "run", None, Discard(), Stop())


@pytest.mark.parametrize("change", ["clip", "class", "joint", "split"])
def test_what_stands_for_a_set_changes_with_all_that_is_learned(change: str, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    before = resolved(f"dataset={written(path)}").config.data.content
    names = COCO17.model_copy(update={"pairs": COCO17.pairs[:1]})
    other: dict[str, Any] = {
        "clip": {"some": clips(joints=walk())},
        "class": {"classes": ["sit", "lie"]},
        "joint": {"skeleton": names},
        "split": {"splits": {"people": Split(test=[2])}},
    }[change]
    written(path, overwrite=True, **other)
    assert resolved(f"dataset={path}").config.data.content != before
    written(path, overwrite=True, source="elsewhere", fps=50)
    assert resolved(f"dataset={path}").config.data.content == before


def test_the_same_bytes_under_other_names_are_another_set(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    one, other = Split("clip", test=0.25), Split("clip", test=0.5)
    before = resolved(f"dataset={written(path, splits={'a': one, 'b': other})}").config.data.content
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["train.a"], header["train.b"] = header["train.b"], header["train.a"]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    assert resolved(f"dataset={path}").config.data.content != before


def test_the_trainer_takes_no_other_clips_under_the_same_header(tmp_path: Path) -> None:
    path = written(tmp_path / "own.safetensors")
    config = resolved(f"dataset={path}", "training.batch_size=4").config
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged, or changed since"):
        load_clips(config)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda path: None, "no file .*own.safetensors .* docs/own-data.md says"),
        (lambda path: path.write_bytes(b"none"), "no header of a safetensors file"),
        (lambda path: save_file(load_file(written(path)), path, without_hash(path)), "no data_sha256"),
        (lambda path: path.write_bytes(written(path).read_bytes()[:-100]), "cut short"),
        (lambda path: forge(path, "version", 2), "version: found 2; allowed: 1"),
        (
            lambda path: forge(path, "classes", ["a\x1b[2J", "b"]),
            "classes.0: found .*; allowed: text of characters that can be shown, on one line",
        ),
    ],
    ids=["missing", "nothing", "no sha256", "cut", "newer", "control characters"],
)
def test_a_file_that_is_no_set_is_told_by_name(made: Any, told: str, tmp_path: Path) -> None:
    made(tmp_path / "own.safetensors")
    with pytest.raises(ConfigError, match=f"(?s)dataset: found .*{told}"):
        resolved(f"dataset={tmp_path / 'own.safetensors'}")


def without_hash(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return {key: value for key, value in file.metadata().items() if key != "data_sha256"}


def test_clips_that_were_read_can_be_written_as_a_set_again(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    write_clips(read_clips(written(path), 2), path)
    assert len(load_clips(resolved(f"dataset={path}", "training.batch_size=4").config)) == 16


def forge(path: Path, key: str, value: Any) -> None:
    """A set whose description says something else."""
    data = written(path).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    about = json.loads(header["__metadata__"]["description"]) | {key: value}
    header["__metadata__"]["description"] = json.dumps(about)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_no_mistakes_are_found_in_a_good_set(tmp_path: Path) -> None:
    path = written(tmp_path / "own.safetensors")
    with path.open("rb") as file:
        assert mistakes_in(read_own(file, path.stat().st_size, path)) == []
