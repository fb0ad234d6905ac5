"""Data sets on disk: the embedded recordings, the splits, prepared files and what is wrong with them."""

import dataclasses
import gc
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from last_e.config import TrainConfig
from last_e.data import Clips, DataError, load_clips, read_clips, write_clips
from last_e.data.clips import TENSORS
from last_e.data.datasets import data_path
from last_e.data.files import FORMAT, IRDS, read_irds
from last_e.data.splits import train_mask
from last_e.data.synthetic import synthetic_clips
from last_e.datafile import check_file, is_remote
from last_e.layers import resolve
from last_e.reading import set_layer

IRDS_FINGERPRINT = "6045feb7a42821d6f57d289d1dee5dbd048cd45fb91272374664fbaf1ab58cbb"
SYNTHETIC_FINGERPRINT = "6ce5fe638d6f939810b857960c9fa4f4d80aa41b64ecb6fef8b0d299145c50df"


def config(*assignments: str) -> TrainConfig:
    layer, problems = set_layer(assignments)
    return resolve([layer], TrainConfig, problems, detect=lambda: ("local", "")).config


def few(**changes: torch.Tensor) -> Clips:
    clips = synthetic_clips(6, 12)
    return dataclasses.replace(clips, **{"setup": clips.setup.clone(), **changes})


def columns(clips: Clips) -> dict[str, torch.Tensor]:
    return {name: getattr(clips, name) for name in TENSORS}


def same(a: Clips, b: Clips) -> bool:
    return all(torch.equal(x, y) for x, y in zip(columns(a).values(), columns(b).values()))


# --- embedded and generated --------------------------------------------------------------------------------------------


def test_irds_has_its_published_counts():
    clips = read_irds()
    mask = train_mask(clips, "irds", "xsub")
    assert len(clips) == 1406
    assert (int(mask.sum()), int((~mask).sum())) == (858, 548)
    assert set(clips.label.tolist()) == set(range(9))
    assert len(set(clips.performer.tolist())) == 14
    assert set(clips.bodies.tolist()) == {1}
    assert set(clips.performer[~mask].tolist()) == {102, 104, 106, 302, 304, 306}


def test_embedded_and_generated_clips_never_change():
    """A changed fingerprint stops every run that began with the old clips."""
    assert read_irds().fingerprint() == IRDS_FINGERPRINT
    assert synthetic_clips().fingerprint() == SYNTHETIC_FINGERPRINT


def test_synthetic_clips_are_as_documented():
    clips = synthetic_clips()
    assert len(clips) == 360
    assert set(clips.label.tolist()) == set(range(6))
    assert ((clips.bodies == 2) == (clips.label % 3 == 2)).all()
    assert int(clips.length.min()) >= 20
    assert int(clips.length.max()) <= 80
    assert set(clips.performer.tolist()) == set(range(1, 13))
    clips.check(6, "synthetic")
    mask = train_mask(clips, "synthetic", "xsub")
    assert (int(mask.sum()), int((~mask).sum())) == (240, 120)


def test_the_fingerprint_sees_every_part():
    base = few()
    for name, tensor in columns(base).items():
        changed = tensor.clone()
        changed.view(-1)[0] += 1
        assert few(**{name: changed}).fingerprint() != base.fingerprint(), name


def test_the_fingerprint_does_not_hang_on_memory_layout():
    clips = few()
    spread = clips.joints.transpose(0, 1).contiguous().transpose(0, 1)
    assert not spread.is_contiguous()
    assert few(joints=spread).fingerprint() == clips.fingerprint()


# --- splits ------------------------------------------------------------------------------------------------------------


def one_each(**numbers: range) -> Clips:
    (values,) = (torch.tensor(list(v)) for v in numbers.values())
    ones = torch.ones(len(values), dtype=torch.int64)
    parts = {"length": ones, "bodies": ones, "label": ones * 0, "performer": ones, "camera": ones, "setup": ones}
    parts.update(dict.fromkeys(numbers, values))
    return Clips(torch.zeros(len(values), 25, 3, dtype=torch.int16), **parts)


def trained(dataset: str, split: str, **numbers: range) -> list[int]:
    clips = one_each(**numbers)
    return getattr(clips, next(iter(numbers)))[train_mask(clips, dataset, split)].tolist()


NTU60_XSUB = [1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38]
NTU120_XSUB = [
    *NTU60_XSUB,
    *[45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86],
    *[89, 91, 92, 93, 94, 95, 97, 98, 100, 103],
]


def test_splits_train_on_whom_the_papers_say():
    assert trained("ntu60", "xsub", performer=range(1, 41)) == NTU60_XSUB
    assert trained("ntu120", "xsub", performer=range(1, 107)) == NTU120_XSUB
    assert len(NTU120_XSUB) == 53
    assert trained("ntu60", "xview", camera=range(1, 4)) == [2, 3]
    assert trained("ntu120", "xset", setup=range(1, 33)) == list(range(2, 33, 2))


@pytest.mark.parametrize("dataset", ["ntu60", "ntu120", "irds", "synthetic"])
def test_every_split_that_a_data_set_names_is_known(dataset):
    for split in config(f"dataset={dataset}").data.splits:
        assert train_mask(few(), dataset, split).dtype == torch.bool


def test_an_unknown_split_is_an_error():
    with pytest.raises(ValueError, match="no split xset of ntu60"):
        train_mask(few(), "ntu60", "xset")


# --- prepared files ----------------------------------------------------------------------------------------------------


def test_what_was_written_is_read(tmp_path):
    clips = few()
    write_clips(clips, tmp_path / "new" / "clips.safetensors", {"source": "a test"})
    again = read_clips(tmp_path / "new" / "clips.safetensors", 6)
    assert same(again, clips)
    assert again.fingerprint() == clips.fingerprint()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["clips.safetensors"]


@pytest.mark.parametrize("make", [synthetic_clips, read_irds])
def test_clips_whose_columns_share_memory_can_be_written(tmp_path, make):
    write_clips(make(), tmp_path / "clips")
    assert read_clips(tmp_path / "clips", 9).fingerprint() == make().fingerprint()


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "clips.safetensors"
    write_clips(few(), path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_clips(few(), path, {"number": 3})  # metadata must be text
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def refused(path: Path, num_classes: int = 6) -> str:
    with pytest.raises(DataError) as caught:
        read_clips(path, num_classes)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(str(path))
    return message


def test_a_file_cut_short_anywhere_is_refused_in_one_line(tmp_path):
    whole, path = tmp_path / "whole", tmp_path / "cut"
    write_clips(few(), whole)
    content = whole.read_bytes()
    for size in [*range(20), 100, 500, 600, 700, *range(1000, len(content), len(content) // 40), len(content) - 1]:
        path.write_bytes(content[:size])
        refused(path)


def test_a_file_with_more_at_its_end_is_refused(tmp_path):
    path = tmp_path / "clips"
    write_clips(few(), path)
    path.write_bytes(path.read_bytes() + b"x")
    refused(path)


@pytest.mark.parametrize("content", [b"", b"hello world, this is text", b"PK\x03\x04" * 9, b"\xff" * 64, b"\x00" * 64])
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "clips"
    path.write_bytes(content)
    refused(path)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(DataError, match="no such file") as caught:
        read_clips(tmp_path / "none", 6)
    assert caught.value.missing


def test_a_folder_is_refused(tmp_path):
    refused(tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    path = tmp_path_factory.mktemp("prepared") / "clips"
    write_clips(few(), path)
    return path


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(at=st.integers(0, 760), byte=st.integers(0, 255))
def test_a_damaged_header_never_ends_in_another_error(prepared, at, byte):
    content = bytearray(prepared.read_bytes())
    content[at] = byte
    path = prepared.with_name("damaged")
    path.write_bytes(content)
    message = "one line"
    try:
        read_clips(path, 6)
    except DataError as error:
        message = str(error)
    assert len(message.splitlines()) == 1


def store(path: Path, tensors: dict[str, torch.Tensor], kind: str | None = FORMAT) -> Path:
    save_file({k: v.clone() for k, v in tensors.items()}, path, {"format": kind} if kind else None)
    return path


@pytest.mark.parametrize("kind", [None, "pt", "lastrun-clips-2"])
def test_another_format_is_refused(tmp_path, kind):
    assert "format" in refused(store(tmp_path / "clips", columns(few()), kind))


@pytest.mark.parametrize("name", ["joints", "length", "bodies", "label", "performer", "camera", "setup"])
def test_a_missing_part_is_refused(tmp_path, name):
    parts = columns(few())
    del parts[name]
    assert name in refused(store(tmp_path / "clips", parts))


WRONG = {
    "joints as floats": lambda c: {"joints": c.joints.float()},
    "24 joints": lambda c: {"joints": c.joints[:, :24]},
    "flat joints": lambda c: {"joints": c.joints.view(-1)},
    "one row too few": lambda c: {"joints": c.joints[:-1]},
    "one row too many": lambda c: {"joints": torch.cat([c.joints, c.joints[:1]])},
    "three bodies": lambda c: {"bodies": c.bodies + 1},
    "no body": lambda c: {"bodies": c.bodies - 1},
    "no frames": lambda c: {"length": c.length * 0, "joints": c.joints[:0]},
    "negative length": lambda c: {"length": -c.length},
    "label too large": lambda c: {"label": c.label + 1},
    "negative label": lambda c: {"label": c.label - 1},
    "one label too few": lambda c: {"label": c.label[:-1]},
    "one performer too many": lambda c: {"performer": torch.cat([c.performer, c.performer[:1]])},
    "two-dimensional labels": lambda c: {"label": c.label[:, None]},
    "no clips": lambda c: {name: tensor[:0] for name, tensor in columns(c).items()},
    "labels as floats": lambda c: {"label": c.label.float()},
    "lengths as floats": lambda c: {"length": c.length.double()},
    "lengths in 8 bits": lambda c: {"length": c.length.to(torch.uint8)},
    "bodies as booleans": lambda c: {"bodies": torch.ones(len(c), dtype=torch.bool), "joints": c.joints[: int(c.length.sum())]},
    "performers as floats": lambda c: {"performer": c.performer.float()},
    "a single number as label": lambda c: {"label": torch.tensor(1)},
    "single numbers everywhere": lambda c: {n: torch.tensor(1) for n in columns(c) if n != "joints"},
    "a single number as joints": lambda c: {"joints": torch.tensor(1, dtype=torch.int16)},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_parts_that_do_not_fit_are_refused_in_one_line(tmp_path, wrong):
    clips = few()
    refused(store(tmp_path / "clips", {**columns(clips), **WRONG[wrong](clips)}))


def test_labels_beyond_the_models_classes_are_refused(tmp_path):
    path = tmp_path / "clips"
    write_clips(few(), path)
    assert "labels from 0 to 5, not 0 to 3" in refused(path, 4)


# --- the embedded file, damaged ----------------------------------------------------------------------------------------


def test_a_damaged_embedded_file_is_refused(tmp_path):
    content = IRDS.read_bytes()
    path = tmp_path / "healthy.npz"
    for size in (0, 10, 1000, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match="install lastrun again") as caught:
            read_irds(path)
        assert len(str(caught.value).splitlines()) == 1
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0x10
    path.write_bytes(flipped)
    with pytest.raises(DataError, match="install lastrun again"):
        read_irds(path)
    del caught
    gc.collect()  # a file left open is told here, not in some later test


def test_a_missing_embedded_file_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="install lastrun again"):
        read_irds(tmp_path / "none.npz")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_inside_a_data_file_is_never_run(tmp_path):
    trace, path = tmp_path / "ran", tmp_path / "bad.npz"
    np.savez(path, length=np.array([Bomb(trace)], dtype=object), joints_mm=np.zeros(1))
    with pytest.raises(DataError):
        read_irds(path)
    pickled = tmp_path / "pickled.npz"
    pickled.write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(DataError):
        read_irds(pickled)
    with pytest.raises(DataError):
        read_clips(pickled, 6)
    assert zipfile.is_zipfile(path)
    assert not trace.exists()
    gc.collect()


# --- where a data set is looked for ------------------------------------------------------------------------------------


def test_a_data_set_without_a_file_says_which_and_where(tmp_path):
    with pytest.raises(DataError) as caught:
        load_clips(config("dataset=ntu60", f"hardware.data_root={tmp_path}"))
    assert caught.value.missing
    message = str(caught.value)
    assert "ntu60.safetensors" in message
    assert str(tmp_path) in message
    assert "data.uri" in message
    assert "lastrun data prepare ntu60" in message
    assert len(message.splitlines()) == 1


def test_a_prepared_file_is_found_in_the_data_root_or_at_its_uri(tmp_path):
    clips = few()
    write_clips(clips, tmp_path / "ntu120.safetensors")
    assert same(load_clips(config("dataset=ntu120", f"hardware.data_root={tmp_path}")), clips)
    for uri in (tmp_path / "ntu120.safetensors", f"file://{tmp_path}/ntu120.safetensors"):
        assert same(load_clips(config("dataset=ntu120", f"data.uri={uri}")), clips)


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    prepared = tmp_path / ".cache/lastrun/data/ntu60.safetensors"
    prepared.parent.mkdir(parents=True)
    prepared.touch()
    assert data_path(config("dataset=ntu60")) == prepared
    assert data_path(config("data.uri=~/.cache/lastrun/data/ntu60.safetensors")) == prepared


def test_a_file_is_also_found_in_folders_below_the_data_root(tmp_path):
    deep = tmp_path / "datasets/somebody/ntu60-prepared/ntu60.safetensors"
    deep.parent.mkdir(parents=True)
    deep.touch()
    assert data_path(config(f"hardware.data_root={tmp_path}")) == deep


def test_what_git_keeps_in_place_of_a_large_file_is_told(tmp_path):
    (tmp_path / "a").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12\n")
    with pytest.raises(DataError, match=r"a: a pointer of Git LFS, in place of the file; fetch it: git lfs pull"):
        read_clips(tmp_path / "a", 60)
    with pytest.raises(DataError, match=r"a: a pointer of Git LFS, in place of the file; fetch it: git lfs pull"):
        check_file(config("dataset=ntu60"), tmp_path / "a")


def test_a_file_that_may_not_be_looked_at_is_told_as_one_that_is_not_there(nobody_special):
    """As a mistake among others, with its key, and what to do."""
    (nobody_special / "locked").mkdir(mode=0)
    for key, name in (("data.uri", "locked/a"), ("hardware.data_root", "locked/a")):
        with pytest.raises(DataError, match=rf"Permission denied \({key}\); make it with .*--set data\.uri=") as caught:
            data_path(config("dataset=ntu60", f"{key}={nobody_special / name}"))
        assert caught.value.missing


def test_two_files_of_the_same_name_are_not_chosen_between(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ntu60.safetensors").touch()
    with pytest.raises(DataError, match=r"a/ntu60\.safetensors or .*b/ntu60\.safetensors\?"):
        data_path(config(f"hardware.data_root={tmp_path}"))


@pytest.mark.parametrize("uri", ["https://host/a", "http://host/a", "S3://bucket/a", "ftp://host/a", "file://host/a", "://a"])
def test_an_address_of_no_known_kind_is_refused_with_what_is_allowed(uri):
    assert not is_remote(uri)
    with pytest.raises(DataError, match=r"allowed: a path, file:///path, s3://bucket/key or gs://bucket/key"):
        data_path(config("dataset=ntu60", f"data.uri={uri}"))


def test_a_home_folder_that_nobody_has_is_a_data_error():
    with pytest.raises(DataError):
        load_clips(config("dataset=ntu60", "data.uri=~nobody-of-that-name/x"))


def test_a_remote_uri_is_refused_here():
    with pytest.raises(DataError, match="a local path is needed"):
        load_clips(config("dataset=ntu60", "data.uri=s3://bucket/ntu60.safetensors"))


def test_embedded_sets_can_be_replaced_by_a_file(tmp_path):
    clips = few()
    write_clips(clips, tmp_path / "own")
    assert same(load_clips(config("dataset=synthetic", f"data.uri={tmp_path / 'own'}")), clips)
    assert len(load_clips(config("dataset=synthetic"))) == 360
    assert len(load_clips(config("dataset=irds"))) == 1406
