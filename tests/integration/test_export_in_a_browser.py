"""From raw keypoints to a page that recognises: import, training, export, page, each as a user does it; and the page in a real
browser, where it reads clips as Python does and says of them what Python says."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from last_e.config import TrainConfig
from last_e.data import OwnClip, Split, read_clips, write_dataset
from last_e.described import UNITS
from last_e.export.about import about_model
from last_e.export.clips import given
from last_e.known import description_of
from last_e.layers import resolve
from last_e.manifest import Manifest
from last_e.prepare.people import NobodyError, choose_people
from last_e.prepare.skeleton import parse
from last_e.prepare.synth import synthesize
from last_e.problems import Origin
from last_e.reading import Entry
from last_e.skeletons import COCO17
from runner.page.build import page
from runner.page.runtime import runtime
from tests import browser, debian
from tests.browser import Look
from tests.integration.test_own_data import person
from tests.jobs import PATIENCE
from tests.npm import runtime_in
from tests.ntu_files import motion

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.slow]

JOB = """\
model: nano
dataset: my.safetensors
training: {epochs: 2, batch_size: 8, input_frames: 16, warmup_epochs: 0}
store: {uri: ./jobs}
"""
MEAN = """<ir_version: 8, opset_import: ["" : 18]>
mean (float[batch,3,frames,25,people] keypoints, int64[batch] frames, int64[batch] people) => (float[batch,3] logits) {
  axes = Constant<value_ints = [2, 3, 4]>()
  logits = ReduceMean<keepdims = 0>(keypoints, axes)
}"""
"""A model that says where a clip is, in place of what it shows."""
Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    debian.need("browser", browser.why_not)
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def call(place: Path) -> Call:
    """``lastrun`` as a user calls it, in one folder for all tests here."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("LASTRUN_", "XDG_", "PYTEST_", "COV_"))}
    env |= {"HOME": str(place), "LASTRUN_WAITS": os.environ["LASTRUN_WAITS"]}

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "runner", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=env, cwd=place, check=False)

    return run


@pytest.fixture(scope="module")
def package(place: Path) -> Path:
    return runtime_in(place)


@pytest.fixture(scope="module")
def exported(place: Path, call: Call) -> Path:
    """The folder of an export to ONNX, whose clips came as a csv file of pixels."""
    names = [f"{joint}_{axis}" for joint in COCO17.joints for axis in "xy"]
    rows = [",".join(["clip", "frame", "label", "subject", *names])]
    for number in range(32):
        for frame, at in enumerate(person(number % 2, number)):
            values = ",".join(f"{value:.2f}" for value in at.ravel())
            rows.append(f"c{number},{frame},{('still', 'waving')[number % 2]},{number // 4},{values}")
    (place / "raw.csv").write_text("\n".join(rows))
    (place / "job.yaml").write_text(JOB)
    for words in (
        ("data", "import", "csv", "raw.csv", "--out", "my.safetensors", "--test", "6,7"),
        ("submit", "job.yaml"),
    ):
        done = call(*words)
        assert done.returncode == 0, done.stderr
    (job,) = (place / "jobs").glob("nano-*")
    done = call("export", job.name, "out", "--store", "jobs", "--int8", "--licence", "CC0-1.0")
    assert done.returncode == 0, done.stderr
    assert "the same as the trainer's on 8 clips of test" in done.stdout
    assert "model.int8.onnx" in done.stdout
    return place / "out"


@pytest.fixture(scope="module")
def browsed(chromium: Browser) -> Iterator[Look]:
    with browser.look_at(chromium, "about:blank") as look:
        yield look


def told(one: Look) -> str:
    return str(one.page.evaluate("document.getElementById('told').textContent"))


def opened(one: Look, path: Path) -> None:
    """Open a page; it is ready."""
    one.page.goto(path.as_uri())
    one.wait_for("document.getElementById('told').textContent.startsWith('Ready')")
    one.said.clear()
    one.asked.clear()


def dropped(one: Look, file: Path) -> str:
    """Drop a file; what is said of it when all is done."""
    one.page.evaluate("document.getElementById('told').textContent = ''")
    one.drop(file)
    one.wait_for("/ ms|: (?!(reading|recognising)$)/.test(document.getElementById('told').textContent)")
    return told(one)


def read_by_the_page(one: Look, file: Path) -> list[np.ndarray]:
    """The clips of a file, (M, T, V, 3) whole numbers each."""
    one.page.set_input_files("#file", file)
    code = """(async () => {
      const found = await readClips(document.getElementById("file").files[0], model), clips = [];
      for (let n = 0; n < found.count; n++) clips.push(await found.get(n));
      return clips.map(clip => clip.people.map(person => Array.from(person)));
    })()"""
    joints = one.page.evaluate("model.skeleton.joints.length")
    return [np.array(clip).reshape(len(clip), -1, joints, 3) for clip in one.page.evaluate(code)]


# --- from raw to page --------------------------------------------------------------------------------------------------------


def test_an_export_says_of_itself_what_it_is(exported: Path, call: Call) -> None:
    assert sorted(one.name for one in exported.iterdir()) == ["README.md", "lastrun.json", "model.int8.onnx", "model.onnx"]
    about = json.loads((exported / "lastrun.json").read_text())
    assert about["classes"] == ["still", "waving"]
    assert about["skeleton"]["joints"] == list(COCO17.joints)
    assert about["inputs"]["keypoints"]["shape"] == ["batch", 2, "frames", 17, "people"]
    assert about["checked"]["clips"] == 8
    assert about["checked"]["off"] < 1e-5
    assert about["checked"]["top1"] == about["checkpoint"]["test_top1"], "it was tested on the same clips"
    assert about["int8"]["lost"] == pytest.approx(about["checked"]["top1"] - about["int8"]["top1"])
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    inside = json.loads(session.get_modelmeta().custom_metadata_map["lastrun"])
    assert inside == {key: value for key, value in about.items() if key not in ("file", "checked", "int8")}

    # On all clips, by its own card's way of running it.
    clips = read_clips(exported.parent / "my.safetensors", 2)
    assert clips.description is not None
    keypoints, frames, people = given(clips, clips.description, torch.arange(len(clips)))
    names = {"keypoints": keypoints.numpy(), "frames": frames.numpy(), "people": people.numpy()}
    right = session.run(["logits"], names)[0].argmax(1) == clips.label.numpy()
    done = call(
        "evaluate", next((exported.parent / "jobs").glob("nano-*")).name, "--store", "jobs", "--part", "train", "--json"
    )
    assert np.mean(right[:24]) == json.loads(done.stdout)["top1"], "as lastrun evaluate finds it"
    card = (exported / "README.md").read_text()
    assert "Licence of the model: CC0-1.0" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.chdir(exported)
        exec(code[1], {})
    assert said.getvalue().strip() in about["classes"]

    # Nothing that is there is lost.
    job = next((exported.parent / "jobs").glob("nano-*")).name
    before = (exported / "model.onnx").read_bytes()
    done = call("export", job, "out", "--store", "jobs")
    assert (done.returncode, "say --force to replace that export" in done.stderr) == (2, True)
    assert (
        "allowed: onnx, pt2, safetensors, executorch" in call("export", job, "b", "--store", "jobs", "--format", "jit").stderr
    )
    assert "--int8 is of --format onnx" in call("export", job, "b", "--store", "jobs", "--format", "pt2", "--int8").stderr
    (exported.parent / "my.safetensors").rename(exported.parent / "away")
    done = call("export", job, "out", "--store", "jobs", "--force")
    (exported.parent / "away").rename(exported.parent / "my.safetensors")
    assert done.returncode == 2, done.stderr
    assert "my.safetensors" in done.stderr
    assert (exported / "model.onnx").read_bytes() == before
    done = call("export", job, "weights", "--store", "jobs", "--format", "safetensors", "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["checked"]["off"] < 1e-6
    assert not [one.name for one in exported.parent.iterdir() if one.name.startswith(".out")]


def test_a_page_recognises_what_is_dropped(exported: Path, call: Call, package: Path, browsed: Look, tmp_path: Path) -> None:
    done = call("demo-page", "out", "page.html", "--runtime", package, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert "is there already: name another file, or say --force" in call("demo-page", "out", "page.html").stderr
    assert "a page is called NAME.html" in call("demo-page", "out", "page").stderr
    assert "it is not onnxruntime-web@" in call("demo-page", "out", "p.html", "--runtime", "raw.csv").stderr
    opened(browsed, exported.parent / "page.html")

    # A clip as it was recorded, with a joint that is not seen; the prepared file with all clips; each as Python has it.
    at = person(1, 77)
    joints = [
        [None if (frame % 5 == 0 and joint == 9) else [*map(float, xy)] for joint, xy in enumerate(one)]
        for frame, one in enumerate(at)
    ]
    (tmp_path / "take.json").write_text(json.dumps({"joints": joints, "label": "waving"}))
    assert re.fullmatch(rf"take: {len(at)} frames, 1 person, \d+ ms; it is waving", dropped(browsed, tmp_path / "take.json"))
    shown = browsed.page.evaluate("document.getElementById('said').innerText")
    assert {"still", "waving"} == set(re.findall(r"still|waving", shown))
    assert len(re.findall(r"\d+\.\d%", shown)) == 2
    picture = browsed.page.evaluate("document.getElementById('picture').toDataURL()")
    browsed.wait_for(f"document.getElementById('picture').toDataURL() !== {json.dumps(picture)}")
    frames = {browsed.wait_for("document.getElementById('shown').textContent") for _ in range(3)}
    assert all(frame.endswith(f" / {len(at)}") for frame in frames)

    said = browsed.page.evaluate("""(async () => {
      const found = await readClips(document.getElementById("file").files[0] ?? new File([], ""), model);
    })().catch(error => error.message)""")
    assert "its name does not say what it is" in said
    prepared = exported.parent / "my.safetensors"
    assert (one := re.search(r"c0: (\d+) frames", dropped(browsed, prepared))) is not None
    # The same player, of the other clip now, is that of reports and of a set's animation.
    assert browsed.page.evaluate("[player.constructor.name, player.frames, player.slider.max]") == [
        "SkeletonPlayer",
        int(one[1]),
        str(int(one[1]) - 1),
    ]
    browsed.page.set_input_files("#file", prepared)
    logits = np.array(
        browsed.page.evaluate("""(async () => {
      const found = await readClips(document.getElementById("file").files[0], model), logits = [];
      for (const number of [0, 13, 31]) logits.push((await recognised(await found.get(number))).logits);
      return logits;
    })()""")
    )
    clips = read_clips(prepared, 2)
    assert clips.description is not None
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    for row, number in zip(logits, (0, 13, 31)):
        one = given(clips, clips.description, torch.tensor([number]))
        expected = session.run(None, {name: value.numpy() for name, value in zip(one._fields, one)})[0][0]
        assert np.abs(row - expected).max() < 1e-4

    # What cannot be read is told, and what comes after it is read.
    for name, content, why in (
        ("a.txt", b"", "its name does not say what it is; allowed: .skeleton, .npy"),
        ("a.skeleton", b"1\n", "the file ends where the number of bodies should stand"),
        ("a.npy", b"no array", "no .npy file"),
        (
            "a.json",
            b'{"joints": [[[1, 2], [3, 4]]]}',
            r"its joints are (1, 1, 2, 2); the model wants (people, frames, 17, 2 or 3), in pixels",
        ),
        ("a.json", b"{", "no JSON"),
        ("a.json", b'{"label": 1}', "no joints in it"),
        ("a.safetensors", b"12345", "cut short"),
        ("a.safetensors", (10**6).to_bytes(8, "little"), "no .safetensors file, or cut short"),
    ):
        (tmp_path / name).write_bytes(content)
        assert why in dropped(browsed, tmp_path / name), (name, told(browsed))
        assert browsed.page.evaluate("document.getElementById('said').children.length") == 0
    assert "take: " in dropped(browsed, tmp_path / "take.json")
    assert browsed.said == []
    assert browsed.asked == []
    browsed.page.evaluate("fetch('http://127.0.0.1:9/').catch(() => 0)")
    assert "Content Security Policy" in "".join(browsed.said), "its policy lets it ask nobody"


# --- what the page does to a clip is what Python does to it -------------------------------------------------------------------


@pytest.fixture(scope="module")
def kinect_page(place: Path, package: Path) -> Path:
    """A page that takes Kinect's joints in space; of what it says of them the other page is the judge."""
    origin = Origin("test")
    config = resolve([{"model.variant": Entry("nano_e_v3", origin), "dataset": Entry("irds", origin)}], TrainConfig).config
    name = "kinect </script>"
    about = about_model(config, description_of("irds", 3), Manifest(step=1, epoch=1, evaluated=True), name, "", 1)
    about["checked"] = {"top1": 0.5, "clips": 2}
    model = onnx.parser.parse_model(MEAN).SerializeToString()
    (place / "kinect.html").write_text(page(about, model, runtime(package, lambda _: None)))
    return place / "kinect.html"


def skeleton_file(bodies: list[tuple[int, range, np.ndarray]], frames: int) -> str:
    """A ``.skeleton`` file of bodies: id, in which frames, and where, (frames, 25, 3) metres."""
    lines = [str(frames)]
    for frame in range(frames):
        there = [(ident, joints[frame]) for ident, when, joints in bodies if frame in when]
        lines.append(str(len(there)))
        for ident, joints in there:
            lines += [f"{ident} 0 1 1 1 1 0 0.1 -0.2 2", "25"]
            lines += [" ".join([*(f"{value:.7g}" for value in point), *["0"] * 9]) for point in joints]
    return "\n".join(lines) + "\n"


def test_recordings_of_a_kinect_are_read_as_python_reads_them(kinect_page: Path, browsed: Look, tmp_path: Path) -> None:
    opened(browsed, kinect_page)
    assert browsed.page.evaluate("document.title") == "kinect </script>"
    first, second, third = (motion(seed, 60) + np.array([0.5 * seed, 0, 2]) for seed in (1, 2, 3))
    gone = first.copy()
    gone[7:9] = np.nan
    far = second.copy()
    far[3] = 1e6
    lying = third[:, :, [1, 0, 2]] * [3, 0.3, 1]
    big = 72057594037937936
    files = {
        "one.skeleton": skeleton_file([(big, range(60), first)], 60),
        "gap.skeleton": skeleton_file([(big, range(5, 20), first), (big + 1, range(30, 58), second)], 60),
        "three.skeleton": skeleton_file([(7, range(60), gone), (-3, range(2, 50), far), (5, range(8), third)], 60),
        "lying.skeleton": skeleton_file([(7, range(60), lying), (8, range(1, 60, 2), second), (9, range(10, 40), third)], 60),
        "commas.skeleton": skeleton_file([(1, range(60), first)], 60).replace(".", ",").replace("\n", "\r\n"),
    }
    for name, text in files.items():
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        (found,) = read_by_the_page(browsed, tmp_path / name)
        expected = choose_people(parse((tmp_path / name).read_bytes())).joints
        assert found.shape == expected.shape, name
        assert np.array_equal(found, expected), name
    assert "2 people" in dropped(browsed, tmp_path / "gap.skeleton")
    (tmp_path / "short.skeleton").write_text(skeleton_file([(1, range(4), first), (2, range(6), second)], 60))
    with pytest.raises(NobodyError) as why:
        choose_people(parse((tmp_path / "short.skeleton").read_bytes()))
    assert str(why.value) in dropped(browsed, tmp_path / "short.skeleton")
    broken = files["one.skeleton"].replace("25", "24", 1)
    (tmp_path / "broken.skeleton").write_text(broken)
    assert "line 4: 24 joints instead of 25" in dropped(browsed, tmp_path / "broken.skeleton")


def test_keypoints_and_prepared_files_are_read_as_python_reads_them(kinect_page: Path, browsed: Look, tmp_path: Path) -> None:
    opened(browsed, kinect_page)
    random = np.random.default_rng(5)
    at = np.stack([motion(4, 40), motion(5, 40) + 1]) + random.normal(0, 0.01, (2, 40, 25, 3))
    at[0, :, 7] = np.nan  # never seen, and what hangs on it
    at[0, :, 21] = np.nan
    at[1, 4:9, 3:6] = np.nan
    at[1, 0, 20] = np.nan
    at[:, 11] = np.nan  # nobody
    at[1, :, 0] = np.nan  # the centre
    clips = [OwnClip(at, 0, "both"), OwnClip(at[1], 1, "second"), OwnClip(at[0], 0, "first"), OwnClip(at[0] + 1, 1, "moved")]
    split = {"one": Split("clip", test=["moved", "first"])}
    write_dataset(tmp_path / "set.safetensors", clips, classes=["a", "b"], skeleton="ntu25", splits=split)
    kept = read_clips(tmp_path / "set.safetensors", 2)
    expected = [kept.joints[kept.start[n] : kept.start[n] + kept.length[n] * kept.bodies[n]].numpy() for n in range(4)]
    for number, clip in enumerate(clips):
        np.save(tmp_path / "one.npy", np.asarray(clip.joints).astype(">f8" if number % 2 else "<f8"))
        (found,) = read_by_the_page(browsed, tmp_path / "one.npy")
        assert np.array_equal(found.reshape(-1, 25, 3), expected[number]), clip.name
    records = [{"name": clip.name, "joints": np.where(np.isnan(clip.joints), None, clip.joints).tolist()} for clip in clips]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, records)))
    for file in ("all.jsonl", "set.safetensors"):
        found = read_by_the_page(browsed, tmp_path / file)
        assert [one.shape[0] for one in found] == [2, 1, 1, 1]
        assert all(np.array_equal(one.reshape(-1, 25, 3), rows) for one, rows in zip(found, expected)), file
    keypoints = np.array(
        browsed.page.evaluate("""(async () => {
      const found = await readClips(document.getElementById("file").files[0], model);
      return Array.from(keypointsOf(await found.get(0), model).values);
    })()""")
    )
    one = given(kept, description_of("irds", 9), torch.tensor([0]))
    assert np.abs(keypoints - one.keypoints.numpy().ravel()).max() < 1e-4 / UNITS["metres"]
    synthesize("ntu60", tmp_path / "ntu60.safetensors", clips=3)
    assert re.match(r"S\d{3}C\d{3}P\d{3}R\d{3}A\d{3}: ", dropped(browsed, tmp_path / "ntu60.safetensors"))
    assert browsed.page.evaluate("document.getElementById('number').max") == "2"
    write_dataset(tmp_path / "coco.safetensors", [OwnClip(random.normal(0, 1, (9, 17, 3)), n % 2, subject=n) for n in range(4)],
                  classes=["a", "b"], skeleton="coco17", splits={"one": Split(test=[2, 3])})  # fmt: skip
    why = dropped(browsed, tmp_path / "coco.safetensors")
    assert "has 17 joints in three dimensions (nose, left_eye, right_eye, ...); the model wants 25 joints in three" in why
    assert browsed.said == []
    assert browsed.asked == []
