"""The page that ``lastrun data inspect --animate`` writes, in a real browser: somebody is seen, whole, and moves."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from last_e.prepare.inspect import animate, render
from last_e.prepare.synth import synthesize
from tests import browser, debian
from tests.ntu_files import motion

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.slow]

MOMENTS = [-5, 17, 117, 517, 1517, 2983, 3117]
"""Milliseconds since it began, each in the middle of a frame: half of it in 1.5 s, then from the start again."""
BEFORE = "<script>const wrong = []; window.onerror = message => { wrong.push(message); }</script>"
AFTER = """<pre id="seen"></pre><script>
  const seen = {wrong, frames: [], stepped: [], pictures: [], after: {}};
  const {canvas, shown, button, slider, frames} = player, back = [player.turn, player.tilt], places = [];
  for (const [turn, tilt] of [[0, 0], back, [1, 0.5], [2, -1], [3, 1.5]]) {
    [player.turn, player.tilt] = [turn, tilt];
    for (const frame of player.clip.joints.flat()) places.push(...frame.map(point => player.place(point)));
  }
  [player.turn, player.tilt] = back;
  seen.low = [0, 1].map(axis => Math.min(...places.map(p => p[axis])));
  seen.high = [0, 1].map(axis => Math.max(...places.map(p => p[axis])));
  seen.size = [canvas.width, canvas.height];
  const real = requestAnimationFrame;
  window.requestAnimationFrame = () => 0;  // so that only we tick
  for (const passed of MOMENTS) {  // a browser may give the time at which a frame began, which was before the script
    player.tick(player.began + passed);
    seen.stepped.push(shown.textContent);
    seen.pictures.push(canvas.toDataURL());
  }
  window.requestAnimationFrame = real;
  const end = () => { document.getElementById("seen").textContent = JSON.stringify(seen); release(); };
  const pause = () => {
    button.click();
    seen.after.button = button.textContent;
    slider.value = 5;
    slider.dispatchEvent(new Event("input"));
    seen.after.slid = shown.textContent;
    let left = 10;
    const stand = () => { if (left-- > 0) real(stand); else { seen.after.stood = shown.textContent; end(); } };
    real(stand);
  };
  const look = () => {  // it plays by itself
    if (seen.frames.at(-1) !== shown.textContent) seen.frames.push(shown.textContent);
    if (seen.frames.length < Math.min(6, frames)) real(look); else pause();
  };
  real(look);
</script>"""


@pytest.fixture(scope="module", autouse=True)
def a_browser() -> None:
    debian.need("browser", browser.why_not)


def watched(page: Path) -> dict[str, Any]:
    """What a script beside the page's own sees."""
    text = page.read_text()
    after = AFTER.replace("MOMENTS", str(MOMENTS))
    page.write_text(text.replace("<meta", f"{BEFORE}<meta", 1).replace("</html>", f"{after}</html>"))
    found = re.search(r'<pre id="seen">(.*?)</pre>', browser.html_when_released(page), re.DOTALL)
    assert found is not None
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    return seen


@pytest.mark.parametrize("people", [1, 2])
def test_somebody_is_seen_whole_and_moves(tmp_path: Path, people: int) -> None:
    joints = np.stack([motion(3 + person, 90) + np.array([person, 0, 0]) for person in range(people)])
    page = tmp_path / "clip.html"
    page.write_text(render((joints * 1000).astype(np.int16), "somebody"))
    seen = watched(page)
    assert seen["wrong"] == []
    assert all(low >= 0 for low in seen["low"]), "every joint of every frame is inside, however it is turned"
    assert all(high <= size for high, size in zip(seen["high"], seen["size"]))
    assert seen["high"][1] - seen["low"][1] > seen["size"][1] / 4, "and large enough to be seen"
    assert seen["stepped"] == [f"{int(max(0, passed) * 30 // 1000) % 90 + 1} / 90" for passed in MOMENTS], "at its own speed"
    assert len(set(seen["pictures"])) == len(set(seen["stepped"]))
    assert {text.split(" / ")[1] for text in seen["frames"]} == {"90"}
    assert seen["after"] == {"button": "Play", "slid": "6 / 90", "stood": "6 / 90"}, "it can be stopped and looked through"


def test_two_looks_at_the_page_as_written_show_two_poses(tmp_path: Path) -> None:
    synthesize("ntu60", tmp_path / "data", clips=4)
    page = tmp_path / "clip.html"
    animate(tmp_path / "data", "3", page)
    pictures = []
    for seconds in (0.7, 1.6):
        browser.picture_after(seconds, page, tmp_path / "seen.png")
        with Image.open(tmp_path / "seen.png") as picture:
            pictures.append(picture.convert("RGB"))
    changed = ImageChops.difference(*pictures).getbbox()
    assert changed is not None
    for picture in pictures:
        colours = {colour for count, colour in picture.getcolors(2**20) if count > 50}
        assert {(43, 123, 214), (18, 63, 115)} <= colours, "left limbs in blue, right ones dark"


def test_a_clip_of_one_frame_stands(tmp_path: Path) -> None:
    page = tmp_path / "clip.html"
    page.write_text(render((motion(3, 1)[None] * 1000).astype(np.int16), "still"))
    seen = watched(page)
    assert seen["wrong"] == []
    assert set(seen["frames"]) == {"1 / 1"}
