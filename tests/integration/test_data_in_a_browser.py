"""The page that ``lastrun data inspect --animate`` writes, in a real browser: somebody is seen, whole, and moves."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from last_e.before_after import SHOWN, write_page
from last_e.prepare.inspect import animate, render
from last_e.prepare.synth import synthesize
from tests import browser
from tests.ntu_files import motion

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.slow]

MOMENTS = [-5, 17, 117, 517, 1517, 2983, 3117]
"""Milliseconds since it began, each in the middle of a frame: half of it in 1.5 s, then from the start again."""
LOOKS_ON = """async moments => {
  const seen = {frames: [], stepped: [], pictures: [], after: {}};
  const {canvas, shown, button, slider, frames} = player, back = [player.turn, player.tilt], places = [];
  for (const [turn, tilt] of [[0, 0], back, [1, 0.5], [2, -1], [3, 1.5]]) {
    [player.turn, player.tilt] = [turn, tilt];
    for (const frame of player.clip.joints.flat()) places.push(...frame.map(point => player.place(point)));
  }
  [player.turn, player.tilt] = back;
  seen.low = [0, 1].map(axis => Math.min(...places.map(p => p[axis])));
  seen.high = [0, 1].map(axis => Math.max(...places.map(p => p[axis])));
  seen.size = [canvas.width, canvas.height];
  const real = requestAnimationFrame, frame = () => new Promise(done => real(done));
  while (seen.frames.length < Math.min(6, frames)) {  // it plays by itself
    if (seen.frames.at(-1) !== shown.textContent) seen.frames.push(shown.textContent);
    await frame();
  }
  window.requestAnimationFrame = () => 0;  // so that only we tick
  for (const passed of moments) {  // a browser may give the time at which a frame began, which was before the script
    player.tick(player.began + passed);
    seen.stepped.push(shown.textContent);
    seen.pictures.push(canvas.toDataURL());
  }
  window.requestAnimationFrame = real;
  button.click();
  seen.after.button = button.textContent;
  slider.value = 5;
  slider.dispatchEvent(new Event("input"));
  seen.after.slid = shown.textContent;
  for (let left = 10; left > 0; left--) await frame();
  seen.after.stood = shown.textContent;
  return seen;
}"""


def watched(chromium: Browser, page: Path) -> dict[str, Any]:
    """What a script beside the page's own sees."""
    with browser.look_at(chromium, page.as_uri()) as look:
        seen: dict[str, Any] = look.page.evaluate(LOOKS_ON, MOMENTS)
        assert look.said == []
        assert look.asked == [page.as_uri()]
    return seen


def test_before_and_after_each_augmentation_somebody_is_seen_who_moves_otherwise(chromium: Browser, tmp_path: Path) -> None:
    synthesize("ntu60", tmp_path / "a.safetensors", clips=1)
    write_page(tmp_path / "a.safetensors", "0", tmp_path / "page.html")
    with browser.look_at(chromium, (tmp_path / "page.html").as_uri()) as look:
        drawn = "players.map(one => { one.play(false); one.draw(40); return one.canvas.toDataURL(); })"
        pictures = look.page.evaluate(drawn)
        assert look.said == []
        assert look.asked == [(tmp_path / "page.html").as_uri()]
    assert len(set(pictures)) == len(pictures) == 2 + len(SHOWN)


@pytest.mark.parametrize("people", [1, 2])
def test_somebody_is_seen_whole_and_moves(chromium: Browser, tmp_path: Path, people: int) -> None:
    joints = np.stack([motion(3 + person, 90) + np.array([person, 0, 0]) for person in range(people)])
    page = tmp_path / "clip.html"
    page.write_text(render((joints * 1000).astype(np.int16), "somebody"))
    seen = watched(chromium, page)
    assert all(low >= 0 for low in seen["low"]), "every joint of every frame is inside, however it is turned"
    assert all(high <= size for high, size in zip(seen["high"], seen["size"]))
    assert seen["high"][1] - seen["low"][1] > seen["size"][1] / 4, "and large enough to be seen"
    assert seen["stepped"] == [f"{int(max(0, passed) * 30 // 1000) % 90 + 1} / 90" for passed in MOMENTS], "at its own speed"
    assert len(set(seen["pictures"])) == len(set(seen["stepped"]))
    assert {text.split(" / ")[1] for text in seen["frames"]} == {"90"}
    assert seen["after"] == {"button": "Play", "slid": "6 / 90", "stood": "6 / 90"}, "it can be stopped and looked through"


def test_two_looks_at_the_page_as_written_show_two_poses(chromium: Browser, tmp_path: Path) -> None:
    synthesize("ntu60", tmp_path / "data", clips=4)
    page = tmp_path / "clip.html"
    animate(tmp_path / "data", "3", page)
    pictures = []
    with browser.look_at(chromium, page.as_uri()) as look:
        shown = look.page.locator("output").inner_text()
        for _ in range(2):
            with Image.open(io.BytesIO(look.page.screenshot())) as picture:
                pictures.append(picture.convert("RGB"))
            look.wait_for(f"document.querySelector('output').textContent !== {json.dumps(shown)}")
    changed = ImageChops.difference(*pictures).getbbox()
    assert changed is not None
    for picture in pictures:
        colours = {colour for count, colour in picture.getcolors(2**20) if count > 50}
        assert {(43, 123, 214), (18, 63, 115)} <= colours, "left limbs in blue, right ones dark"


def test_a_clip_of_one_frame_stands(chromium: Browser, tmp_path: Path) -> None:
    page = tmp_path / "clip.html"
    page.write_text(render((motion(3, 1)[None] * 1000).astype(np.int16), "still"))
    seen = watched(chromium, page)
    assert set(seen["frames"]) == {"1 / 1"}
