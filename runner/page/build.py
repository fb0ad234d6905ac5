"""One HTML file out of a model and what runs it. It loads nothing, and its policy forbids that it could."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

from last_e.described import IN_THE_IMAGE, UNITS
from last_e.skeletons import NTU25, PLAYER, Skeleton
from last_e.text import counted, percent, plain
from runner.page.runtime import Runtime

_HERE = Path(__file__).parent


def page(about: dict[str, Any], model: bytes, runtime: Runtime) -> str:
    """The page.

    Args:
        about: what an export to ONNX says of itself (``lastrun.json``).
        model: its model.
        runtime: what runs it.
    """
    script = "\n".join([PLAYER.read_text(encoding="utf-8"), _part("clips.js"), _part("page.js")])
    parts = {
        "POLICY": _policy(script, runtime.script, _part("page.css")),
        "TITLE": html.escape(plain(about["name"])),
        "STYLE": _part("page.css"),
        "WHAT": html.escape(_what(about)),
        "ABOUT": _list(_facts(about)),
        "DATA": _json(_for_the_page(about)),
        "WASM": _packed(runtime.wasm),
        "MODEL": _packed(model),
        "RUNTIME": runtime.script,
        "SCRIPT": script,
    }
    return re.sub(r"__([A-Z]+)__", lambda found: parts[found[1]], _part("page.html"))


def _policy(*inline: str) -> str:
    """What the browser lets the page do: run these scripts, wear this style, and nothing else; it may ask no server."""
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in inline]
    *scripts, style = hashes
    return (
        f"default-src 'none'; script-src {' '.join(scripts)} 'wasm-unsafe-eval'; style-src {style}; "
        "base-uri 'none'; form-action 'none'"
    )


def _for_the_page(about: dict[str, Any]) -> dict[str, Any]:
    skeleton = Skeleton.model_validate(about["skeleton"])
    return {
        **{key: about[key] for key in ("name", "classes", "units", "fps", "people")},
        "skeleton": about["skeleton"],
        "parents": skeleton.parents,
        "isFlat": about["units"] in IN_THE_IMAGE,
        "numbers": UNITS[about["units"]],
        "kinect": NTU25.joints,
    }


def _what(about: dict[str, Any]) -> str:
    joints = counted(len(about["skeleton"]["joints"]), "joint")
    return f"Tells which of {counted(len(about['classes']), 'class', 'classes')} a clip of {joints} shows."


def _facts(about: dict[str, Any]) -> list[str]:
    checked, data = about["checked"], about["data"]
    return [
        f"LAST-E v3, {about['variant']}, {about['parameters']:,} parameters; licence: {about['licence']}",
        f"trained on {data['name']}, split {data['split']}; licence of the data: {data['licence']}",
        f"top-1 {percent(checked['top1'])} on {counted(checked['clips'], 'clip')} of test",
        f"reads .skeleton, .npy, .json and .jsonl of keypoints in {about['units']}, and prepared .safetensors",
        f"classes: {', '.join(about['classes'])}",
        f"joints: {', '.join(about['skeleton']['joints'])}",
        "recognised by ONNX Runtime Web (MIT licence, Microsoft Corporation)",
    ]


def _list(facts: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(plain(fact))}</li>' for fact in facts)}</ul>"


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()


def _json(value: Any) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _part(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
