"""The command line: what is refused, how it is told, and which layer wins. Nothing here trains."""

import json
from pathlib import Path

import pytest
import torch

from last_e.cli import FAILED, FLAGS, USAGE, _parser, _resolve, main
from last_e.config import TrainConfig
from last_e.layers import Resolved, known_keys, resolve
from last_e.problems import ConfigError, Origin
from last_e.reading import Entry
from last_e.resume import changes


def resolved(*words: str) -> Resolved[TrainConfig]:
    args, unknown = _parser().parse_known_args(["--env", "local", *words])
    return _resolve(args, unknown, None)


def errors(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(list(words)) == USAGE == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert all(line.startswith("error: ") for line in err.splitlines())
    return err.splitlines()


# --- flags -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("--model nano", "model.variant", "nano_e_v3"),
        ("--model large_e_v3", "model.variant", "large_e_v3"),
        ("--dataset irds", "dataset", "irds"),
        ("--split_type xview", "split_type", "xview"),
        ("--epochs 7", "training.epochs", 7),
        ("--batch_size 8", "training.batch_size", 8),
        ("--lr 1e-2", "training.lr", 0.01),
        ("--weight_decay 0", "training.weight_decay", 0),
        ("--dropout 0.4", "model.dropout", 0.4),
        ("--scheduler constant", "training.scheduler", "constant"),
        ("--min_lr 1e-5", "training.min_lr", 1e-5),
        ("--milestones 30,60", "training.milestones", [30, 60]),
        ("--milestones 30", "training.milestones", [30]),
        ("--amp", "training.use_amp", True),
        ("--no-amp", "training.use_amp", False),
        ("--workers 0", "hardware.num_workers", 0),
        ("--seed 5", "training.seed", 5),
        ("--env kaggle", "env", "kaggle"),
    ],
)
def test_each_flag_sets_its_key(words, key, value):
    flags = words.split()
    if key == "training.epochs":
        flags += ["--set", "training.warmup_epochs=1"]
    result = resolved(*flags)
    assert result.items()[key] == value
    assert str(result.origins[key]) == flags[0]


def test_every_flag_of_the_reference_is_there():
    reference = [
        "model",
        "dataset",
        "split_type",
        "epochs",
        "batch_size",
        "lr",
        "weight_decay",
        "dropout",
        "scheduler",
        "min_lr",
        "milestones",
        "workers",
        "seed",
        "env",
    ]
    assert set(FLAGS) == set(reference)
    assert {key for key, _ in FLAGS.values()} <= set(known_keys(TrainConfig))


def test_set_takes_several_words_may_be_repeated_and_is_applied_last():
    result = resolved(
        "--set",
        "training.lr=0.5",
        "training.seed=1",
        "--lr",
        "0.2",
        "--epochs",
        "50",
        "--set",
        "training.seed=2",
        "model.dropout=0.4",
    )
    assert (result.config.training.lr, result.config.training.seed, result.config.model.dropout) == (0.5, 2, 0.4)
    assert result.config.training.epochs == 50
    assert str(result.origins["training.lr"]) == "--set"


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("training.warmup_start_lr=5e-3", "training.warmup_start_lr", 0.005),
        ("training.nesterov=false", "training.nesterov", False),
        ("model.channels=[8, 8, 8]", "model.channels", [8, 8, 8]),
        ("hardware.session_limit=8h50m", "hardware.session_limit", 31800),
        ("hardware.scratch_root=null", "hardware.scratch_root", None),
        ("data.uri=/a=b", "data.uri", "/a=b"),
        ("training.num_workers=3", "hardware.num_workers", 3),
    ],
)
def test_set_reads_its_values_as_yaml(word, key, value):
    assert resolved("--set", word).items()[key] == value


# --- mistakes ----------------------------------------------------------------------------------------------------------


def test_all_mistakes_are_told_at_once_without_a_traceback(capsys):
    lines = errors(
        capsys,
        "--modle",
        "nano",
        "--lr",
        "fast",
        "--epochs",
        "1.5",
        "--turbo",
        "--set",
        "training.lrr=1",
        "training.seed=x",
        "nothing",
    )
    text = "\n".join(lines)
    assert len(lines) >= 7
    assert "--modle: found an unknown flag; allowed: known keys only; did you mean model?" in text
    assert "--turbo: found an unknown flag" in text
    assert "--lr: training.lr: found 'fast'; allowed: a number > 0, at most 100" in text
    assert "--epochs: training.epochs: found 1.5; allowed: a whole number" in text
    assert "training.lrr" in text
    assert "did you mean training.lr?" in text
    assert "training.seed: found 'x'" in text
    assert "nothing: found no KEY=VALUE" in text


@pytest.mark.parametrize("words", [["--lr"], ["--set"], ["--amp=1"], ["--resume"]])
def test_a_flag_without_its_value_is_one_line(capsys, words):
    assert len(errors(capsys, *words)) == 1


@pytest.mark.parametrize("word", ["--epoch", "--batch-size", "--learning_rate"])
def test_flags_are_never_guessed_from_their_beginning(capsys, word):
    (line, *_) = errors(capsys, word, "3")
    assert word in line


def test_a_value_that_is_no_yaml_is_told_with_its_flag(capsys):
    assert "--lr: training.lr: found '[1'" in errors(capsys, "--lr", "[1")[0]


def test_a_rule_over_two_flags_names_the_one_at_fault(capsys):
    (line,) = errors(capsys, "--dataset", "ntu60", "--split_type", "xset")
    assert line == "error: --split_type: split_type: found 'xset'; allowed: one of xsub, xview (for dataset ntu60)"


def test_a_rule_between_a_flag_and_a_setting_names_the_one_at_fault(capsys):
    (line,) = errors(capsys, "--lr", "0.001", "--set", "training.warmup_start_lr=0.01")
    assert line == "error: --set: training.warmup_start_lr: found 0.01; allowed: at most training.lr (0.001)"


def test_a_low_peak_brings_the_packaged_start_and_floor_down_with_it():
    flags = {"training.lr": Entry(0.00005, Origin("--lr"))}
    resolved = resolve([flags], TrainConfig, detect=lambda: ("local", ""))
    training = resolved.config.training
    assert (training.lr, training.warmup_start_lr, training.min_lr) == (0.00005, 0.00005, 0.00005)
    assert str(resolved.origins["training.min_lr"]) == "--lr (no higher than training.lr)"


@pytest.mark.parametrize("name", ["nowhere", "file.txt", "empty"])
def test_a_checkpoint_that_is_not_there_is_one_line(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    (line,) = errors(capsys, "--resume", str(tmp_path / name))
    assert line.startswith("error: --resume: ")


def test_a_home_that_nobody_has_is_one_line(capsys):
    assert len(errors(capsys, "--resume", "~nobody-of-that-name/run")) == 1


def test_memory_that_runs_out_is_told_as_that(tmp_path, monkeypatch, capsys):
    """By torch's own word, which is no kind of error of its own on a CPU."""
    monkeypatch.setattr("last_e.train.run", lambda *_, **__: torch.empty(1 << 50))
    assert main(["--dataset", "synthetic", "--env", "local", "--out", str(tmp_path / "run")]) == FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert "you tried to allocate 4503599627370496 bytes" in line
    assert line.endswith("; lower hardware.micro_batch (it changes no result but batch statistics)")


def test_help_ends_well(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{flag}" in text for flag in [*FLAGS, "amp", "resume", "set", "allow-change", "out"])


def test_several_layers_of_one_mistake_are_each_told():
    with pytest.raises(ConfigError) as caught:
        resolved("--lr", "-1", "--set", "training.lr=-2")
    assert [problem.origin for problem in caught.value.problems] == ["--lr", "--set"]


# --- what may change when going on -------------------------------------------------------------------------------------

BEGAN = {
    "training.batch_size": 16,
    "training.gradient_accumulation_steps": 1,
    "training.lr": 0.1,
    "hardware.num_workers": 4,
    "hardware.micro_batch": None,
}


def pinned(**after: object) -> list[str]:
    now = BEGAN | {key.replace("__", "."): value for key, value in after.items()}
    return [change.key for change in changes(BEGAN, now) if change.pinned]


def test_a_batch_cut_otherwise_is_no_change_to_what_is_learned():
    assert pinned(training__batch_size=8, training__gradient_accumulation_steps=2) == []
    assert pinned(training__batch_size=8) == ["training.batch_size"]
    assert pinned(training__batch_size=8, training__gradient_accumulation_steps=4) == [
        "training.batch_size",
        "training.gradient_accumulation_steps",
    ]


def test_hardware_may_change_and_a_micro_batch_says_what_it_changes():
    found = changes(BEGAN, BEGAN | {"hardware.num_workers": 2, "hardware.micro_batch": 8})
    assert [(change.key, change.pinned, change.note) for change in found] == [
        ("hardware.num_workers", False, ""),
        ("hardware.micro_batch", False, "batch statistics differ"),
    ]


def test_a_new_or_vanished_key_is_a_change():
    assert [(c.key, c.before, c.after) for c in changes({"dataset": "irds"}, {"env": "local"})] == [
        ("dataset", "irds", None),
        ("env", None, "local"),
    ]


def test_a_config_in_a_checkpoint_reads_back_as_it_was(tmp_path):
    """As JSON it is read by the same reader as YAML."""
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    began = resolved("--model", "nano", "--lr", "1e-5", "--min_lr", "1e-7", "--set", "training.warmup_start_lr=1e-6")
    (folder / "config.json").write_text(json.dumps(began.config.model_dump(mode="json")))
    args, unknown = _parser().parse_known_args(["--env", "local"])
    again = _resolve(args, unknown, Path(folder))
    assert again.items() == began.items()


def test_a_path_in_a_checkpoints_config_may_hold_any_letter(tmp_path):
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    began = resolved("--set", "data.uri=/dätä/😀.safetensors")
    (folder / "config.json").write_text(json.dumps(began.config.model_dump(mode="json")))
    args, unknown = _parser().parse_known_args(["--env", "local"])
    assert _resolve(args, unknown, folder).config.data.uri == "/dätä/😀.safetensors"
