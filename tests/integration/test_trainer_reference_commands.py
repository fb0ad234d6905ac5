"""The commands of the reference, letter for letter: accepted, clear about a missing file, and they train."""

import dataclasses
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import last_e
from last_e.cli import main
from last_e.data import write_clips
from last_e.data.synthetic import synthetic_clips
from last_e.environment import detect_environment

REPOSITORY = Path(last_e.__file__).parents[1]
COMMANDS = {
    "base, several lines": """python scripts/train.py \\
  --model base_e_v3 \\
  --dataset ntu60 \\
  --split_type xsub \\
  --epochs 120 \\
  --batch_size 32 \\
  --lr 0.1 \\
  --weight_decay 0.0004 \\
  --dropout 0.3 \\
  --scheduler cosine_warmup \\
  --min_lr 0.0001 \\
  --amp \\
  --workers 2 \\
  --seed 42 \\
  --env kaggle \\
  --set training.gradient_clip=1.0 \\
       training.gradient_accumulation_steps=1 \\
       training.warmup_epochs=5 \\
       training.warmup_start_lr=0.01 \\
       training.label_smoothing=0.1 \\
       training.ib_loss_weight=0.01 \\
       training.save_interval=10 \\
       training.nesterov=true \\
       training.momentum=0.9
""",
    "base, one line": "!python scripts/train.py --model base_e_v3 --dataset ntu60 --split_type xsub --epochs 120 --batch_size 32 --lr 0.1 --weight_decay 0.0004 --dropout 0.3 --scheduler cosine_warmup --min_lr 0.0001 --amp --workers 2 --seed 42 --env kaggle --set training.gradient_clip=1.0 training.gradient_accumulation_steps=1 training.warmup_epochs=5 training.warmup_start_lr=0.01 training.label_smoothing=0.1 training.ib_loss_weight=0.01 training.save_interval=10 training.nesterov=true training.momentum=0.9",  # noqa: E501
    "nano": "!python scripts/train.py --model nano_e_v3 --dataset ntu60 --epochs 120 --batch_size 64 --lr 0.1 --amp --workers 2 --env kaggle --set training.gradient_clip=1.0 training.warmup_epochs=5 training.warmup_start_lr=0.01",  # noqa: E501
    "small": "!python scripts/train.py --model small_e_v3 --dataset ntu60 --epochs 120 --batch_size 48 --lr 0.1 --amp --workers 2 --env kaggle --set training.gradient_clip=1.0 training.warmup_epochs=5 training.warmup_start_lr=0.01",  # noqa: E501
    "large": "!python scripts/train.py --model large_e_v3 --dataset ntu60 --epochs 120 --batch_size 24 --lr 0.1 --dropout 0.3 --amp --workers 2 --env kaggle --set training.gradient_clip=1.0 training.warmup_epochs=5 training.warmup_start_lr=0.01 training.ib_loss_weight=0.01",  # noqa: E501
}
EXAMPLES = [
    "training.gradient_clip=2.0",
    "training.gradient_accumulation_steps=4",
    "training.warmup_epochs=3",
    "training.warmup_start_lr=0.005",
    "training.ib_loss_weight=0.05",
    "training.label_smoothing=0.2",
    "training.save_interval=5",
    "training.nesterov=false",
    "model.dropout=0.4",
]


def words(command: str) -> list[str]:
    """What the shell makes of a command, the program left out."""
    python, script, *rest = shlex.split(command.removeprefix("!").replace("\\\n", " "))
    assert (python, script) == ("python", "scripts/train.py")
    return rest


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty home and working folder; the trainer's signal handlers and torch's settings are put back afterwards."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads, deterministic = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(deterministic)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """96 clips of 6 of the 60 classes; performers on both sides of the split: 72 to train, 24 to test."""
    clips = synthetic_clips(6, 96)
    performer = torch.tensor([1, 2, 4, 3])[torch.arange(96) // 6 % 4]
    path = tmp_path_factory.mktemp("prepared") / "small.safetensors"
    write_clips(dataclasses.replace(clips, performer=performer, setup=clips.setup.clone()), path)
    return path


@pytest.mark.skipif(Path("/kaggle").exists(), reason="this machine looks like Kaggle")
@pytest.mark.parametrize("name", COMMANDS)
def test_without_the_data_a_command_names_the_file_and_the_folder_in_one_line(name, elsewhere, capsys):
    assert main(words(COMMANDS[name])) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("error: ntu60: no file ntu60.safetensors in /kaggle/input")
    assert [text.partition(" (")[0] for text in said.out.splitlines() if "warning" in text] == [
        f"warning: env kaggle is used on a machine that is {detect_environment()[0]}"
    ]
    assert list(elsewhere.iterdir()) == [], "nothing is written for a run that cannot begin"
    assert not Path("/kaggle").exists()


@pytest.mark.skipif(Path("/kaggle").exists(), reason="this machine looks like Kaggle")
def test_the_command_as_a_shell_runs_it_ends_the_same_way(tmp_path):
    command = COMMANDS["base, several lines"].replace("python ", f"{shlex.quote(sys.executable)} ", 1)
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, env={"HOME": str(tmp_path)})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "ntu60.safetensors" in line


def test_the_one_line_says_the_same_as_the_several_lines():
    assert words(COMMANDS["base, one line"]) == words(COMMANDS["base, several lines"])


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "base, one line"])
def test_with_data_the_same_command_trains(name, elsewhere, prepared, capsys):
    small = [f"data.uri={prepared}", "training.epochs=1", "training.input_frames=16", "training.warmup_epochs=0"]
    here = [f"hardware.output_root={elsewhere / 'working'}", "hardware.cpu_threads=1"]  # not the real /kaggle/working
    assert main([*words(COMMANDS[name]), *small, *here]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "completed at step" in out
    (run,) = (elsewhere / "working").iterdir()
    assert run.name.startswith(f"{words(COMMANDS[name])[1]}-ntu60-xsub-")
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1
    assert len(list((run / "checkpoints").glob("step-*/MANIFEST.json"))) == 1


def test_the_examples_of_the_reference_are_accepted(elsewhere, capsys):
    assert main(["--env", "local", "--set", *EXAMPLES]) == 2
    assert "no file ntu60.safetensors" in capsys.readouterr().err
    for example in EXAMPLES:
        assert main(["--env", "local", "--set", example]) == 2
        assert "no file ntu60.safetensors" in capsys.readouterr().err
