"""Docs cannot drift: what they name exists, what exists they name, and what they show runs."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from last_e.config import TrainConfig
from last_e.layers import known_keys
from runner.commands.app import _spread_set, app
from runner.errors import Exit, Reason, State
from tests.conftest import Cli
from tests.jobs import Run

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TOP = {name: command for name, command in get_command(app).commands.items() if not command.hidden}
COMMANDS = {name: command for name, command in TOP.items() if not hasattr(command, "commands")}
COMMANDS |= {f"{group} {n}": c for group, command in TOP.items() for n, c in getattr(command, "commands", {}).items()}


def command_of(words: list[str]) -> tuple[str, list[str]]:
    """The command that some words call, and its arguments."""
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    return name, words[len(name.split()) :]


def test_every_command_and_every_flag_is_documented() -> None:
    rows = {
        command_of(row.split("`")[1].split()[1:])[0]: row
        for row in (ROOT / "docs/commands.md").read_text().splitlines()
        if row.startswith("| `lastrun ")
    }
    assert set(rows) - {"--version"} == set(COMMANDS)
    for name, command in COMMANDS.items():
        flags = {flag for parameter in command.params for flag in parameter.opts if flag.startswith("--")}
        missing = {flag for flag in flags - {"--help", "--json", "--quiet"} if flag not in rows[name]}
        assert not missing, (name, missing)


def test_every_code_state_and_reason_is_documented() -> None:
    text = (ROOT / "docs/commands.md").read_text()
    for code in Exit:
        assert f"| {int(code)} |" in text
    for name in [reason.value for reason in Reason] + [state.value for state in State]:
        assert f"`{name}`" in text or f" {name} " in text, name


def test_the_configuration_page_is_what_the_schemas_say() -> None:
    script = ROOT / "scripts" / "make_docs.py"
    code = f"import runpy; print(runpy.run_path({str(script)!r})['render'](), end='')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    page = (ROOT / "docs/configuration.md").read_text()
    assert page == done.stdout, "run scripts/make_docs.py"
    assert all(f"| `{key}` |" in page for key in known_keys(TrainConfig))


SOURCE = """
from runner.errors import UsageError
_ALLOWED = "a folder"
class OwnError(UsageError):
    pass
def _why(name):
    return f"{name} is not there"
def f(path, n, gpu):
    if n:
        raise OwnError(f"{path.name}: found {n} point{'s' if n > 1 else ''}; allowed: {_ALLOWED}")
    what = "no GPU" if gpu else "a GPU that is busy"
    error = UsageError(what + "; take another")
    show(f"note: {path} is left alone", error=True)
    raise error
"""


def test_the_page_of_messages_is_what_the_source_says(tmp_path: Path) -> None:
    read_off = runpy.run_path(str(ROOT / "scripts" / "make_messages.py"))
    page = read_off["render"]()
    assert (ROOT / "docs/messages.md").read_text() == page, "run scripts/make_messages.py"
    assert re.findall(r"(?i)\b(?:please|sorry|failed to|can.t|don.t|invalid|illegal|unable to)\b", page) == []  # one voice
    assert re.findall(r"\ballowed (?:are|is)\b(?! \()", page) == []
    for name, text in (("errors.py", (ROOT / "runner/errors.py").read_text()), ("new.py", SOURCE)):
        (tmp_path / "runner").mkdir(exist_ok=True)
        (tmp_path / "runner" / name).write_text(text)
    found = {(one.text, one.kind, one.code) for one in read_off["messages"](tmp_path) if one.path == "runner/new.py"}
    assert found == {
        ("{path.name}: found {n} point[s]; allowed: a folder", "error", "2"),
        ("no GPU; take another", "error", "2"),
        ("a GPU that is busy; take another", "error", "2"),
        ("note: {path} is left alone", "note", ""),
        ("note: {path} is left alone", "said", ""),
    }


def shown_commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:bash|console)\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                line = line.removeprefix("$ ").split("  #")[0].strip()
                if line.startswith(("lastrun ", "make ")):
                    found.append((page.name, line))
    return found


@pytest.mark.parametrize(("page", "line"), shown_commands(), ids=lambda value: str(value)[:60])
def test_every_command_that_is_shown_parses(page: str, line: str) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], check=True, capture_output=True, cwd=ROOT)
        return
    words = _spread_set(words[1:])
    if words[0].startswith("--"):
        return
    name, arguments = command_of(words)
    COMMANDS[name].make_context(name, arguments)  # raises for an unknown flag or a missing argument


def test_the_readme_shows_the_variants_as_they_are() -> None:
    from last_e.model import build_model, receptive_field

    text = (ROOT / "README.md").read_text()
    for variant in ("nano_e_v3", "small_e_v3", "base_e_v3", "large_e_v3"):
        model = build_model(variant)
        parameters = sum(p.numel() for p in model.parameters())
        assert re.search(rf"\| `{variant}` \| {parameters:,} \| {receptive_field(model)} \|", text)


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), (page.name, target)


def test_the_example_in_the_data_page_writes_a_file_that_can_be_read(tmp_path: Path, cli: Cli) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL)
    assert code is not None
    (tmp_path / "example.py").write_text(code[1])
    subprocess.run([sys.executable, "example.py"], check=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    from last_e.data import read_clips

    assert len(read_clips(tmp_path / "ntu60.safetensors", 60)) == 2


@pytest.mark.slow
def test_the_tutorial_runs_as_it_is_written(tmp_path: Path, cli: Cli, clean_env: dict[str, str]) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs/tutorial.md").read_text(), re.DOTALL)
    for line in "".join(blocks).splitlines():
        program, *words = shlex.split(line, comments=True)
        assert program == "lastrun"
        if "# press Ctrl-C" in line:  # after a checkpoint, so that there is something to go on from
            assert (
                Run({**clean_env, "LASTRUN_SUBMITTER": "me"}, *words).interrupt(lambda job: job.checkpoints.all())[0]
                == Exit.PAUSED
            )
            continue
        done = cli(*words, BROWSER="true", LASTRUN_SUBMITTER="me")
        # What this machine lacks is the doctor's to say.
        assert done.returncode in ((0, 1) if words == ["doctor"] else (0,)), (line, done.stdout, done.stderr)
        assert "warning" not in done.stdout + done.stderr or words == ["doctor"], line
    first = json.loads(cli("status", "first", "--json").stdout)
    assert (first["state"], first["epoch"], first["attempts"]) == ("succeeded", 3, 2)
    assert re.search(r"going on from checkpoint \d+e?-\S+ \(epoch 1, step \d\d", cli("logs", "first").stdout)
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 3
    assert {"MANIFEST.json", "config.json", "state.pt"} == {path.name for path in (tmp_path / "model").iterdir()}
    assert len(list((tmp_path / ".cache/lastrun/reports").glob("first-*.html"))) == 1


def test_the_tour_of_own_data_runs_as_it_is_written(tmp_path: Path, cli: Cli) -> None:
    page = (ROOT / "docs/own-data.md").read_text()
    tour = re.search(r"\n## A tour\n(.*?)\n## ", page, re.DOTALL)
    assert tour is not None
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", tour[1], re.DOTALL))
    (tmp_path / "make.py").write_text(blocks["python"])
    (tmp_path / "job.yaml").write_text(blocks["yaml"])
    for line in blocks["bash"].splitlines():
        program, *words = shlex.split(line)
        if program == "python":
            command = [sys.executable, *words]
            subprocess.run(command, check=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
        else:
            done = cli(*words)
            assert done.returncode == 0, (line, done.stderr)
            assert "warning" not in done.stdout + done.stderr, line
    assert "take-3: class 1 (waving)" in (tmp_path / "clip.html").read_text()
    assert len(list((tmp_path / "jobs").glob("nano-*"))) == 1
    assert "2 classes" in cli("data", "inspect", "again.safetensors").stdout
