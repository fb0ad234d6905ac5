#!/usr/bin/env python3
"""Writes docs/configuration.md from the schemas and the packaged defaults, and docs/messages.md; tests see that they are so."""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from last_e.config import ENVIRONMENTS, VARIANTS, is_pinned
from last_e.layers import KEY_ALIASES, known_keys, package_layer, set_by
from last_e.problems import allowed_values, show
from runner.spec import JobSpec, SweepFile

HEAD = """\
# Configuration

<!-- Written by scripts/make_docs.py from the schemas and the packaged defaults: do not edit by hand. -->

Every key of a job file, of `--set`, and (but for `name`, `run.*`, `store.*`, `notify.*`, `tracking` and `sweep.*`) of
`python -m last_e --set`. Layers, lowest first: the recipe, the model variant, the data set, the environment profile, the job
file, direct flags, `--set`.
`lastrun explain JOB.YAML` prints each value with the layer that set it.

A key marked *pinned* decides learning: it is fixed when a job begins, and `resume` refuses to change it unless
`--allow-change KEY` is given. Of `training.batch_size` and `training.gradient_accumulation_steps` only the product is pinned.

A key marked *here* or *asks* is a matter of one machine: what a job says of it counts where you gave it, by submitting the job
from there or with a flag. Of a job that you resume from elsewhere what is *here* is left out, and what *asks* is refused until
you say `--trust` ([security](security.md)).

A relative path in `data.uri`, `hardware.data_root`, `hardware.scratch_root` or `store.ca_bundle` is meant from where it is
written: the job file's folder, for `--set` the current one; `~` is the home folder of whoever runs the job.

YAML is read strictly: `1e-4` is a number, only `true` and `false` are truth values, a key may stand once, there are no aliases.
"""


def render() -> str:
    """The whole page."""
    text = HEAD
    fields, marks = known_keys(JobSpec) | known_keys(SweepFile), set_by(JobSpec) | set_by(SweepFile)
    base = package_layer("base_e_v3", "ntu60", "local")
    section = None
    for key, field in fields.items():
        name = key.rpartition(".")[0] or "job"
        if name != section:
            section = name
            text += f"\n## {section}\n\n| key | default | allowed | what it is |\n|---|---|---|---|\n"
        default = base[key].value if key in base else None if field.is_required() else field.get_default()
        if key == "model.variant":
            default = "base_e_v3 (a job file must name it)"
        if key == "dataset":
            default = "ntu60 (a job file must name it)"
        words = allowed_values(field.annotation, field.metadata).replace("|", "\\|")
        pinned = " *pinned*" if is_pinned(key) else ""
        who = "" if marks[key].who == "learning" else f" *{marks[key].who}*"
        text += f"| `{key}` | {show(default).strip(chr(39))} | {words} | {field.description}{pinned}{who} |\n"
    text += "\n## Model variants\n\n| | " + " | ".join(VARIANTS) + " |\n|---" * 1 + "|---" * len(VARIANTS) + "|\n"
    layers = [package_layer(variant, "ntu60", "local") for variant in VARIANTS]
    for key in (key for key in layers[0] if key.startswith("model.") and key != "model.variant"):
        text += f"| `{key}` | " + " | ".join(show(layer[key].value).strip("'") for layer in layers) + " |\n"
    text += "\n## Environment profiles\n\n`auto` finds out which one fits, and says why. They hold hardware keys only.\n"
    text += "\n| | " + " | ".join(ENVIRONMENTS) + " |\n|---" + "|---" * len(ENVIRONMENTS) + "|\n"
    profiles = [package_layer("base_e_v3", "ntu60", env) for env in ENVIRONMENTS]
    for key in (key for key in profiles[0] if profiles[0][key].origin.name.startswith("configs/env")):
        text += f"| `{key}` | " + " | ".join(show(layer[key].value).strip("'") for layer in profiles) + " |\n"
    text += "\n## Other places for a key\n\n"
    text += "".join(f"- `{alias}` is read as `{key}`\n" for alias, key in KEY_ALIASES.items())
    return text + "- `model: base` is read as `model.variant: base_e_v3`\n"


if __name__ == "__main__":
    (ROOT / "docs" / "configuration.md").write_text(render())
    runpy.run_path(str(ROOT / "scripts" / "make_messages.py"), run_name="__main__")
