"""The card of a model, in the form in which hubs show it: what it is, of what data, how good, how large, how it is run."""

from __future__ import annotations

import json
from typing import Any

from last_e.text import counted, percent

_RUN = {
    "onnx": """\
import json

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
about = json.loads(session.get_modelmeta().custom_metadata_map["lastrun"])
keypoints = np.zeros((1, {sides}, 40, {joints}, 1), np.float32)  # (batch, coordinates, frames, joints, people)
frames, people = np.array([40]), np.array([1])
(logits,) = session.run(["logits"], {{"keypoints": keypoints, "frames": frames, "people": people}})
print(about["classes"][logits[0].argmax()])
""",
    "pt2": """\
import torch

model = torch.export.load("{file}").module()
keypoints = torch.zeros(1, {sides}, 40, {joints}, 1)  # (batch, coordinates, frames, joints, people)
print(model(keypoints, torch.tensor([40]), torch.tensor([1])).softmax(1))
""",
    "safetensors": """\
from pathlib import Path

import torch
from last_e.export.formats import read_safetensors

model = read_safetensors(Path("{file}"))  # a torch.nn.Module; nothing is unpickled
keypoints = torch.zeros(1, {sides}, 40, {joints}, 1)  # (batch, coordinates, frames, joints, people)
with torch.no_grad():
    print(model(keypoints, torch.tensor([40]), torch.tensor([1])).softmax(1))
""",
    "executorch": """\
import torch
from executorch.runtime import Runtime

method = Runtime.get().load_program("{file}").load_method("forward")
keypoints = torch.zeros(1, {sides}, 40, {joints}, 1)  # (batch, coordinates, frames, joints, people)
print(method.execute([keypoints, torch.tensor([40]), torch.tensor([1])])[0].softmax(1))
""",
}


def card(about: dict[str, Any]) -> str:
    """The text of ``README.md``."""
    file, checked, data, at = about["file"], about["checked"], about["data"], about["checkpoint"]
    classes = counted(len(about["classes"]), "class", "classes")
    joints, sides = len(about["skeleton"]["joints"]), about["inputs"]["keypoints"]["shape"][1]
    head = {"library_name": "lastrun", "tags": ["skeleton-action-recognition", file["format"]], "license": "other"}
    head["license_name"] = about["licence"]
    code = _RUN[file["format"]].format(file=file["name"], sides=sides, joints=joints)
    recipe = ", ".join(f"{key} {value}" for key, value in about["recipe"].items())
    tested = "not tested when it was saved."
    if (top1 := at["test_top1"]) is not None:
        tested = f"top-1 {percent(top1)} on all its clips that test. The best checkpoint may have been chosen on these."
    elif (top1 := at.get("validation_top1")) is not None:
        tested = f"top-1 {percent(top1)} on the clips on which it was chosen, which neither train nor test."
    inputs = "\n".join(
        f"| `{name}` | {one['type']} | ({', '.join(map(str, one['shape']))}) | {one['what']} |"
        for name, one in {**about["inputs"], **about["outputs"]}.items()
    )
    return f"""---
{"".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" + chr(10) for key, value in head.items())}---

# {about["name"]}

LAST-E v3 ({about["variant"]}, {about["parameters"]:,} parameters): which of {classes} a clip of {joints} joints shows.

## Use

```python
{code}```

| | type | shape | what |
|---|---|---|---|
{inputs}

Inside of the file:

{_listed(about["inside"])}

Yours to do before (`lastrun predict` and the page of `lastrun demo-page` do it):

{_listed(about["beside"])}

Classes: {", ".join(about["classes"])}.

Joints: {", ".join(about["skeleton"]["joints"])}.

## Data and recipe

- Data: {data["name"]}, split {data["split"]}{f". Where it comes from: {data['source']}" if data["source"] else ""}
- Licence of the data: {data["licence"]}
- Licence of the model: {about["licence"]}
- Recipe: {recipe}; {about["input_frames"]} frames; step {at["step"]:,}, epoch {at["epoch"]}

## Accuracy, size and speed

- In training: {tested}
- This file, on {counted(checked["clips"], "clip")} of those that test: top-1 {percent(checked["top1"])}; logits are off by
  {checked["off"]:.1e} at most from those of PyTorch ({checked["allowed"]:.0e} is allowed).
- {file["bytes"] / 1e6:.2f} MB; {checked["milliseconds"]:.1f} ms a clip ({checked["on"]}).
{_int8(about.get("int8"))}"""


def _listed(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _int8(about: dict[str, Any] | None) -> str:
    if about is None:
        return ""
    return f"""- `{about["name"]}` (eight bits): {about["bytes"] / 1e6:.2f} MB, {about["milliseconds"]:.1f} ms; top-1
  {percent(about["top1"])} on the same clips, {100 * about["lost"]:+.2f} points lost; it says the same of
  {percent(about["says_the_same"])} of them.
"""
