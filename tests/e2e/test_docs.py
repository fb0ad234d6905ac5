"""Docs cannot drift: what they name exists, what exists they name, and what they show runs."""

from __future__ import annotations

import ast
import importlib
import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from last_e.cli import _parser as trainer_parser
from last_e.config import TrainConfig
from last_e.layers import KEY_ALIASES, known_keys, known_only
from last_e.reading import load_file
from runner.commands.app import _spread_set, app
from runner.errors import Exit, Reason, State
from runner.spec import JobSpec, SweepFile
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
    scripts = [path.read_text() for folder in ("page", "ui/static") for path in sorted((ROOT / "runner" / folder).glob("*.js"))]
    assert re.findall(r"\ballowed (?:are|is)\b(?! \()", "\n".join([page, *scripts])) == []
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


FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SWEEP_KEYS = {".".join(key.split(".")[:2]) for key in known_keys(SweepFile)}
FOREIGN = ("source", "export", "git", "sudo", "sky", "hf", "kaggle", "apptainer")
"""Programs that are not ours, and that pages call."""


def shown_commands() -> list[tuple[str, str]]:
    """Every line of a shell that stands in a block of any page; what stands in a block without a language behind a ``$``."""
    found = []
    for page in PAGES:
        for language, block in FENCED.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                is_called = line.startswith("$ ") or language in ("bash", "text")
                line = re.split(r"\s+#", f" {line.removeprefix('$ ')}")[0].strip()
                if is_called and line:
                    found.append((page.name, line))
    return found


@pytest.mark.parametrize(("page", "line"), shown_commands(), ids=lambda value: str(value)[:60])
def test_every_command_that_is_shown_parses(page: str, line: str) -> None:
    words = shlex.split(line)
    if "lastrun" in words and words[0] != "git":  # behind variables, times of cron, a host of ssh
        words = _spread_set(words[words.index("lastrun") + 1 :])
        if not words[0].startswith("--"):
            name, arguments = command_of(words)
            COMMANDS[name].make_context(name, arguments)  # raises for an unknown flag or a missing argument
    elif words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], check=True, capture_output=True, cwd=ROOT)
    elif words[0] == "pip":
        extras = re.search(r"\n\[project.optional-dependencies\]\n(.*?)\n\[", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
        assert extras is not None
        for name in re.findall(r"\.\[(\w+)\]", line):
            assert f"\n{name} = [" in f"\n{extras[1]}"
    elif words[:2] == ["python", "scripts/train.py"] or words[:3] == ["python", "-m", "last_e"]:
        arguments = words[words.index("last_e" if "-m" in words else "scripts/train.py") + 1 :]
        trainer_parser().parse_args(arguments)
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file() or words[1] == "make.py"  # which the page itself has
    else:
        assert words[0] in FOREIGN, line


def test_every_command_and_key_that_a_sentence_names_is_there() -> None:
    """Placeholders stand for arguments there, so that commands and their flags alone are looked at."""
    keys = {*known_keys(JobSpec), *KEY_ALIASES, *known_keys(SweepFile)}
    keys |= {key.rpartition(".")[0] for key in keys}
    sections = "|".join({key.partition(".")[0] for key in keys if "." in key} - {"model"})  # which files are called, too
    wrong = []
    for page in [*PAGES, ROOT / "SECURITY.md"]:
        text = FENCED.sub("", page.read_text()).replace("\n", " ")
        for span in re.findall(r"`([^`]+)`", text):
            if (called := re.match(r"(?:[A-Z_]+=\S+ )*lastrun (?![{-])(.*)", span)) is not None:
                name, words = command_of(called[1].split())
                command = COMMANDS.get(name) or get_command(app).commands.get(name)
                options = (
                    [] if command is None else [each for one in command.params for each in (*one.opts, *one.secondary_opts)]
                )
                unknown = [
                    word for word in words if re.match("-[a-z-]", word) and word.split("=")[0] not in (*options, "--help")
                ]
                wrong += [(page.name, span)] if command is None or unknown else []
            elif (key := re.fullmatch(rf"((?:{sections})\.[a-z_.0-9]+)(?:[=:].*)?", span)) is not None and key[1] not in keys:
                wrong.append((page.name, span))
    assert wrong == []


def test_every_piece_of_a_job_file_and_of_python_that_is_shown_is_one(tmp_path: Path) -> None:
    """Of Python what it imports; what the tours of data pages do is run by tests of their own."""
    for page in PAGES:
        for language, block in FENCED.findall(page.read_text()):
            (tmp_path / "shown.yaml").write_text(block)
            if language == "yaml":
                layer, problems = load_file(tmp_path / "shown.yaml")
                of_job = {key: entry for key, entry in layer.items() if not key.startswith("sweep.")}
                assert [*problems, *known_only(of_job, JobSpec)[1]] == [], page.name
                assert {key for key in layer.keys() - of_job.keys() if ".".join(key.split(".")[:2]) not in SWEEP_KEYS} == set()
            for node in ast.walk(ast.parse(block)) if language == "python" else ():
                for name in node.names if isinstance(node, ast.ImportFrom) else ():
                    assert hasattr(importlib.import_module(str(node.module)), name.name), page.name


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
