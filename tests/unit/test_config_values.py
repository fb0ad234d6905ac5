"""Every default of the reference, the rules over several keys, the hardware profiles, and which layer wins."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import last_e
from last_e import config as schema
from last_e.config import (
    DATASETS,
    ENVIRONMENTS,
    RECIPES,
    RULES,
    VARIANTS,
    TrainConfig,
    effective_batch,
    is_pinned,
    parse_duration,
)
from last_e.environment import cpu_name, detect_environment, fits, gpu_names
from last_e.layers import CONFIGS, Resolved, flatten, known_keys, resolve
from last_e.problems import ConfigError, allowed_values
from last_e.reading import load_file, set_layer

REPOSITORY = Path(last_e.__file__).parents[1]


def resolved(*assignments: str) -> Resolved[TrainConfig]:
    layer, problems = set_layer(assignments)
    return resolve([layer], TrainConfig, problems, detect=lambda: ("local", "told by the test"))


# --- what the reference says -------------------------------------------------------------------------------------------

REFERENCE = {
    "training.optimizer": "sgd",
    "training.lr": 0.1,
    "training.momentum": 0.9,
    "training.nesterov": True,
    "training.weight_decay": 0.0004,
    "training.scheduler": "cosine_warmup",
    "training.warmup_epochs": 5,
    "training.warmup_start_lr": 0.01,
    "training.min_lr": 0.0001,
    "training.epochs": 120,
    "training.batch_size": 32,
    "training.gradient_accumulation_steps": 1,
    "training.input_frames": 64,
    "training.label_smoothing": 0.1,
    "training.gradient_clip": 1.0,
    "training.ib_loss_weight": 0.01,
    "training.use_amp": True,
    "training.save_interval": 10,
    "training.seed": 42,
    "hardware.num_workers": 4,
    "hardware.pin_memory": True,
    "dataset": "ntu60",
    "split_type": "xsub",
    "data.num_classes": 60,
}
VARIANT_TABLE = """
                 nano          small         base           large
stem_channels    24            32            48             48
channels         [32,48,64]    [48,64,96]    [64,96,128]    [80,112,160]
num_blocks       [1,1,1]       [1,2,2]       [2,2,2]        [2,2,2]
depths           [1,1,1]       [1,1,1]       [1,1,1]        [1,1,1]
strides          [1,2,2]       [1,2,2]       [1,2,2]        [1,2,2]
expand_ratio     2             2             2              2
max_hop          1             2             2              2
gate_type        motion        motion        motion         hybrid
use_subset_att   false         true          true           true
use_ib_loss      false         false         true           true
dropout          0.2           0.25          0.3            0.3
drop_path_rate   0.0           0.0           0.05           0.1
"""


def variant_rows() -> dict[str, dict[str, object]]:
    header, *lines = [line.split() for line in VARIANT_TABLE.strip().splitlines()]
    return {name: {line[0]: yaml.safe_load(line[i + 1]) for line in lines} for i, name in enumerate(header)}


@pytest.mark.parametrize("variant", ["nano", "small", "base", "large"])
def test_every_default_is_that_of_the_reference_for_each_variant(variant):
    expected = {**REFERENCE, **{f"model.{key}": value for key, value in variant_rows()[variant].items()}}
    items = resolved(f"model.variant={variant}").items()
    assert {key: items[key] for key in expected} == expected
    assert items["model.variant"] == f"{variant}_e_v3"


def test_without_any_word_the_model_is_base_on_ntu60():
    assert resolved().config.model.variant == "base_e_v3"
    assert resolved().config.dataset == "ntu60"


@pytest.mark.parametrize(
    ("dataset", "classes", "splits"),
    [("ntu60", 60, ["xsub", "xview"]), ("ntu120", 120, ["xsub", "xset"]), ("irds", 9, ["xsub"]), ("synthetic", 6, ["xsub"])],
)
def test_each_data_set_knows_its_classes_and_splits(dataset, classes, splits):
    config = resolved(f"dataset={dataset}").config
    assert (config.data.num_classes, config.data.splits, config.split_type) == (classes, splits, "xsub")


def test_what_may_be_named_is_what_has_a_file():
    kinds = {"model": VARIANTS, "data": DATASETS, "env": ENVIRONMENTS, "training": ("cosine_v3", *RECIPES)}
    assert {kind: sorted(path.stem for path in (CONFIGS / kind).iterdir()) for kind in kinds} == {
        kind: sorted(names) for kind, names in kinds.items()
    }


@pytest.mark.parametrize(("env", "workers"), [("local", 4), ("kaggle", 2), ("gcp", 8), ("lambda", 12), ("a100", 16)])
def test_each_environment_has_its_number_of_workers(env, workers):
    assert resolved(f"env={env}").config.hardware.num_workers == workers


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_only_kaggle_ends_after_nine_hours(env):
    assert resolved(f"env={env}").config.hardware.session_limit == (9 * 3600 if env == "kaggle" else None)


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_a_profile_decides_nothing_but_hardware(env):
    layer, problems = load_file(CONFIGS / "env" / f"{env}.yaml")
    assert not problems
    assert layer
    assert {key.split(".")[0] for key in layer} == {"hardware"}
    assert not any(is_pinned(key) for key in layer)


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_what_decides_learning_is_the_same_in_every_environment(env):
    here, local = resolved(f"env={env}").items(), resolved("env=local").items()
    assert {k: v for k, v in here.items() if is_pinned(k)} == {k: v for k, v in local.items() if is_pinned(k)}


def test_every_key_has_a_description_and_words_for_what_it_admits():
    for key, info in known_keys(TrainConfig).items():
        if key != "model":
            assert info.description, key
            assert allowed_values(info.annotation, info.metadata), key


# --- free of torch -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module", ["config", "layers", "environment", "manifest", "resume", "events", "console", "stop", "metrics", "cli"]
)
def test_the_shared_modules_do_not_import_torch(module):
    code = f"import sys, last_e.{module}; print(sorted({{'torch', 'numpy', 'safetensors'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.strip() == "[]"


# --- durations ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("8h50m", 31800), ("90s", 90), ("2d", 172800), ("1d2h3m4s", 93784), ("3600", 3600), ("9h", 32400), ("' 5m '", 300)],
)
def test_durations_are_read_as_people_write_them(text, seconds):
    assert resolved("hardware.stop_margin=1s", f"hardware.session_limit={text}").config.hardware.session_limit == seconds


@pytest.mark.parametrize("text", ["0s", "0", "31d", "1.5h", "h", "50m8h", "''", "' '", "-5m", "true", "1w", "[9h]", "10.0"])
def test_other_durations_are_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=r"hardware\.session_limit.*a duration such as 8h50m or a number of seconds"):
        resolved(f"hardware.session_limit={text}")


def test_what_is_no_duration_is_left_for_the_schema_to_refuse():
    assert parse_duration("soon") == "soon"
    assert parse_duration(12) == 12
    assert parse_duration(None) is None


# --- single values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "allowed"),
    [
        ("training.lr=0", "a number > 0, at most 100"),
        ("training.lr=.nan", "a number > 0"),
        ("training.lr=.inf", "a number"),
        ("training.lr='0.1'", "a number"),
        ("training.lr=true", "a number"),
        ("training.lr=", "a number"),
        ("training.epochs=1.0", "a whole number at least 1"),
        ("training.epochs=true", "a whole number"),
        ("training.epochs=0", "a whole number at least 1"),
        ("training.augment=no", "true or false"),
        ("training.augment=1", "true or false"),
        ("training.optimizer=adam", "one of sgd, adamw"),
        ("training.scheduler=linear", "one of cosine_warmup, cosine_warmup_restart, multistep, constant"),
        ("model.dropout=1", "a number at least 0, < 1"),
        ("model.channels=64", "a list, each entry a whole number"),
        ("training.betas=[0.9]", "a list"),
        ("training.seed=-1", "a whole number at least 0"),
        ("training.seed=9223372036854775808", "a whole number"),
        ("hardware.precision=fp8", "one of auto, bf16, fp16, fp32"),
        ("hardware.micro_batch=0", "a whole number"),
        ("data.uri=''", "text"),
        ("env=azure", "one of auto, local, kaggle, gcp, lambda, a100"),
        ("dataset=ntu", "one of irds, ntu60, ntu120, synthetic"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_with_what_is(assignment, allowed):
    with pytest.raises(ConfigError) as caught:
        resolved(assignment)
    (problem,) = caught.value.problems
    assert problem.key == assignment.split("=")[0]
    assert problem.origin == "--set"
    assert problem.allowed.startswith(allowed)


def test_a_whole_number_is_fine_where_a_number_is_asked_for():
    assert resolved("training.lr=1").config.training.lr == 1


def test_an_optimizer_that_is_not_known_never_becomes_another():
    with pytest.raises(ConfigError, match="found 'lion'; allowed: one of sgd, adamw"):
        resolved("training.optimizer=lion")


def test_a_configuration_cannot_be_changed_afterwards():
    config = resolved().config
    with pytest.raises(ValueError, match="frozen"):
        config.training.lr = 1.0


# --- rules over several keys -------------------------------------------------------------------------------------------

ALLOWED = [
    ("model.channels=[8,8]", "model.num_blocks=[1,1]", "model.depths=[1,1]", "model.strides=[1,2]"),
    ("training.input_frames=16", "model.strides=[1,2,2]"),
    ("training.input_frames=16", "model.strides=[2,2,1]"),
    ("training.momentum=0", "training.nesterov=false"),
    ("training.momentum=0", "training.optimizer=adamw"),
    ("training.min_lr=0.1",),
    ("training.min_lr=1", "training.scheduler=constant"),
    ("training.min_lr=1", "training.scheduler=multistep"),
    ("training.warmup_epochs=5", "training.epochs=5"),
    ("training.warmup_epochs=5", "training.epochs=1"),
    ("training.warmup_epochs=0", "training.epochs=1", "training.warmup_start_lr=1"),
    ("training.scheduler=constant", "training.epochs=1", "training.warmup_start_lr=1"),
    ("training.warmup_start_lr=0.1",),
    ("training.scheduler=multistep", "training.milestones=[10]"),
    ("training.scheduler=multistep", "training.milestones=[10, 119.5]"),
    ("training.milestones=[]",),
    ("dataset=ntu60", "split_type=xview"),
    ("dataset=ntu120", "split_type=xset"),
    ("hardware.session_limit=601s",),
    ("hardware.session_limit=null", "hardware.stop_margin=30d"),
]
REFUSED = [
    (("dataset=irds", "data.num_classes=8"), "data.num_classes"),
    (("model.num_blocks=[1,1]",), "model.num_blocks"),
    (("model.depths=[1,1,1,1]",), "model.depths"),
    (("model.strides=[1]",), "model.strides"),
    (("training.input_frames=16", "model.strides=[2,2,2]"), "training.input_frames"),
    (("training.input_frames=16", "model.strides=[4,2,1]"), "training.input_frames"),
    (("training.momentum=0",), "training.nesterov"),
    (("training.min_lr=0.11",), "training.min_lr"),
    (("training.min_lr=1", "training.scheduler=cosine_warmup_restart"), "training.min_lr"),
    (("training.warmup_start_lr=0.11",), "training.warmup_start_lr"),
    (("training.scheduler=multistep", "training.milestones=[]"), "training.milestones"),
    (("training.scheduler=multistep", "training.milestones=[20, 10]"), "training.milestones"),
    (("training.scheduler=multistep", "training.milestones=[10, 10]"), "training.milestones"),
    (("training.scheduler=multistep", "training.milestones=[120]"), "training.milestones"),
    (("dataset=ntu60", "split_type=xset"), "split_type"),
    (("data.train_seed=1",), "data.train_seed"),
    (("dataset=ntu60", "data.train_position=standing"), "data.train_position"),
    (("training.augment=false", "training.augmentations.mixup=0.2"), "training.augmentations.mixup"),
    (("training.augmentations.motion_from=mean",), "training.augmentations.motion_from"),
    (
        ("training.augmentations.motion=0.7", "training.augmentations.motion_range=[1.1, 0.1]"),
        "training.augmentations.motion_range",
    ),
    (("dataset=synthetic", "training.augmentations.mirror=0.5"), "training.augmentations.mirror"),
    (("dataset=irds", "split_type=xview"), "split_type"),
    (("hardware.session_limit=600s",), "hardware.session_limit"),
    (("data.validation=people",), "data.validation"),
    (("data.validation_by=clip",), "data.validation_by"),
    (("training.min_delta=0.1",), "training.min_delta"),
    (("model.freeze=[stages.*]",), "model.freeze"),
    (("training.body_lr_factor=0.1",), "training.body_lr_factor"),
    (("training.class_weights=[1.0, 2.0]",), "training.class_weights"),
    (("training.class_weights=[falling=2]",), "training.class_weights"),
    (("training.class_weights=balanced", "training.sampler=balanced"), "training.class_weights"),
]


@pytest.mark.parametrize("assignments", ALLOWED, ids=" ".join)
def test_rules_let_pass_what_fits_together(assignments):
    resolved(*assignments)


@pytest.mark.parametrize(
    ("assignments", "key"), REFUSED, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_rules_refuse_what_does_not_fit_together(assignments, key):
    with pytest.raises(ConfigError) as caught:
        resolved(*assignments)
    assert [problem.key for problem in caught.value.problems] == [key]
    assert caught.value.problems[0].origin == "--set"


def test_every_rule_is_shown_by_a_refused_example():
    shown = {key for _, key in REFUSED}
    for rule, keys in RULES:
        assert shown.intersection(keys), rule.__name__


def test_a_rule_names_only_keys_that_exist():
    assert {key for _, keys in RULES for key in keys} <= set(known_keys(TrainConfig))


# --- pinned ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["dataset", "split_type", "training.lr", "training.seed", "model.dropout", "data.num_classes"])
def test_what_decides_learning_is_pinned(key):
    assert is_pinned(key)


@pytest.mark.parametrize("key", ["env", "data.uri", "hardware.num_workers", "checkpoint.keep_last", "training.save_interval"])
def test_what_only_fits_the_machine_is_not_pinned(key):
    assert not is_pinned(key)


def test_effective_batch_is_the_product():
    assert effective_batch(resolved("training.batch_size=8", "training.gradient_accumulation_steps=4").config.training) == 32


# --- layers ------------------------------------------------------------------------------------------------------------


def test_a_later_layer_wins_and_every_value_knows_its_origin(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("model: nano\ntraining:\n  lr: 0.2\n  epochs: 50\n  seed: 1\nhardware.num_workers: 3\n")
    file, problems = load_file(path)
    flags, _ = set_layer(["training.epochs=60", "training.seed=2"], "--flag")
    settings, _ = set_layer(["training.seed=3"])
    result = resolve([file, flags, settings], TrainConfig, problems, detect=lambda: ("kaggle", ""))
    expected = {
        "training.seed": (3, "--set"),
        "training.epochs": (60, "--flag"),
        "training.lr": (0.2, f"{path}:3"),
        "hardware.num_workers": (3, f"{path}:6"),
        "hardware.precision": ("fp16", "configs/env/kaggle.yaml"),
        "model.variant": ("nano_e_v3", f"{path}:1"),
        "model.stem_channels": (24, "configs/model/nano_e_v3.yaml"),
        "data.num_classes": (60, "configs/data/ntu60.yaml"),
        "training.momentum": (0.9, "configs/training/cosine_v3.yaml"),
        "hardware.stop_margin": (600, "default"),
    }
    items = result.items()
    found = {key: (items[key], str(result.origins[key])) for key in expected}
    assert {key: (v, o.rpartition(":")[0] if o.startswith("configs/") else o) for key, (v, o) in found.items()} == expected
    assert set(result.origins) == set(items) == set(known_keys(TrainConfig))


def test_an_environment_profile_wins_over_the_recipe_but_not_over_the_user():
    assert resolved("env=a100").config.hardware.num_workers == 16
    assert resolved("env=a100", "hardware.num_workers=1").config.hardware.num_workers == 1


@pytest.mark.parametrize(
    ("alias", "key"),
    [
        ("training.num_workers=7", "hardware.num_workers"),
        ("training.pin_memory=false", "hardware.pin_memory"),
        ("training.dropout=0.4", "model.dropout"),
        ("training.drop_path_rate=0.2", "model.drop_path_rate"),
    ],
)
def test_keys_are_also_found_where_the_reference_names_them(alias, key):
    assert resolved(alias).items()[key] == yaml.safe_load(alias.split("=")[1])


def test_a_resolved_configuration_reads_back_as_it_was():
    config = resolved("model.variant=large", "hardware.session_limit=9h", "data.uri=somewhere").config
    again = TrainConfig.model_validate_json(json.dumps(config.model_dump(mode="json")))
    assert again == config
    assert flatten(again) == flatten(config)


def test_every_section_refuses_unknown_keys():
    for name in ("ModelConfig", "TrainingConfig", "DataConfig", "CheckpointConfig", "HardwareConfig", "TrainConfig"):
        with pytest.raises(ValueError, match="Extra inputs are not permitted"):
            getattr(schema, name).model_validate({"invented": 1})


# --- finding out where we are ------------------------------------------------------------------------------------------


def gpu(root: Path, name: str) -> None:
    information = root / "proc/driver/nvidia/gpus/0000:00:04.0/information"
    information.parent.mkdir(parents=True)
    information.write_text(f"Model: \t\t {name}\nIRQ:   \t\t 24\n")


def product(root: Path, name: str) -> None:
    file = root / "sys/class/dmi/id/product_name"
    file.parent.mkdir(parents=True)
    file.write_text(f"{name}\n")


def marker(root: Path, name: str) -> None:
    (root / name).parent.mkdir(parents=True)
    (root / name).touch()


LAMBDA = "var/lib/dpkg/info/lambda-stack-cuda.list"


def test_nothing_special_is_local(tmp_path):
    name, reason = detect_environment(tmp_path, {})
    assert name == "local"
    assert "no sign" in reason


def test_kaggle_is_known_by_its_variable_or_its_folder(tmp_path):
    assert detect_environment(tmp_path, {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"})[0] == "kaggle"
    assert detect_environment(tmp_path, {"KAGGLE_KERNEL_RUN_TYPE": ""})[0] == "local"
    (tmp_path / "kaggle/working").mkdir(parents=True)
    assert detect_environment(tmp_path, {}) == ("kaggle", "/kaggle/working exists")


def test_google_compute_engine_is_known_by_the_product_name(tmp_path):
    product(tmp_path, "Google Compute Engine")
    assert detect_environment(tmp_path, {})[0] == "gcp"


def test_another_product_name_is_not_google(tmp_path):
    product(tmp_path, "Google Compute Engine Lookalike")
    assert detect_environment(tmp_path, {})[0] == "local"


@pytest.mark.parametrize("name", [LAMBDA, "etc/apt/sources.list.d/lambda-repository.list"])
def test_lambda_is_known_by_its_stack(tmp_path, name):
    marker(tmp_path, name)
    assert detect_environment(tmp_path, {})[0] == "lambda"


def test_an_a100_counts_more_than_the_landlord_and_kaggle_more_than_the_gpu(tmp_path):
    gpu(tmp_path, "NVIDIA A100-SXM4-40GB")
    product(tmp_path, "Google Compute Engine")
    marker(tmp_path, LAMBDA)
    assert gpu_names(tmp_path) == ["NVIDIA A100-SXM4-40GB"]
    assert detect_environment(tmp_path, {}) == ("a100", "the driver reports NVIDIA A100-SXM4-40GB")
    assert detect_environment(tmp_path, {"KAGGLE_KERNEL_RUN_TYPE": "Batch"})[0] == "kaggle"


@pytest.mark.parametrize("name", ["Tesla T4", "NVIDIA A10", "NVIDIA RTX A1000", "NVIDIA H100 80GB HBM3"])
def test_another_gpu_is_no_a100(tmp_path, name):
    gpu(tmp_path, name)
    assert detect_environment(tmp_path, {})[0] == "local"


def test_the_reason_for_a_found_environment_is_told():
    layer, _ = set_layer(["env=auto"])
    result = resolve([layer], TrainConfig, detect=lambda: ("gcp", "the machine says so"))
    assert result.notes == ["environment: gcp (the machine says so)"]
    assert result.config.hardware.num_workers == 8
    assert resolved("env=lambda").notes == ["environment: lambda"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("model name\t: AMD EPYC 7R13 Processor\ncpu family\t: 25\nflags\t\t: fpu avx2", "AMD EPYC 7R13 Processor"),
        ("cpu family\t: 25\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 sha_ni", "AMD EPYC (family 25, AVX2)"),
        ("cpu family\t: 26\nmodel name\t: AMD EPYC\nflags\t\t: avx2 avx512f", "AMD EPYC (family 26, AVX-512)"),
        ("cpu family\t: 6\nmodel name\t: QEMU Virtual CPU\nflags\t\t: fpu sse2", "QEMU Virtual CPU (family 6)"),
        ("model name\t: A CPU", "A CPU"),
    ],
)
def test_a_cpu_whose_model_is_left_out_is_named_with_its_family(tmp_path, lines, expected):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"processor\t: 0\n{lines}\n\nprocessor\t: 1\n{lines}\n")
    assert cpu_name(tmp_path) == expected


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("dataset=NTU-60", "ntu60"),
        ("model=base-e-v3", "base_e_v3"),
        ("split_type=X-Sub", "xsub"),
        ("training.optimizer=adam", "adamw"),
        ("training.scheduler=cosine", "cosine_warmup"),
        ("training.use_amp=yes", "true"),
        ("hardware.device=GPU", "cuda"),
        ("training.epochs=5.0", "5"),
        ("training.seed=0x2A", "42"),
        ("training.lr=0,1", "0.1"),
        ("training.milestones=70, 100", "[70, 100]"),
        ("training.milestones=70", "[70]"),
        ("hardware.session_limit=8:50:00", "8h50m"),
        ("hardware.stop_margin='1 hour 10 min'", "1h10m"),
    ],
)
def test_the_value_that_was_meant_is_named_and_would_do(word: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve([set_layer([word])[0]], TrainConfig)
    (problem,) = caught.value.problems
    assert problem.allowed.endswith(f"; did you mean {meant}?")
    resolve([set_layer([f"{word.partition('=')[0]}={meant}"])[0]], TrainConfig)


@pytest.mark.parametrize("word", ["training.epochs=zzz", "training.epochs=-1", "dataset=kinetics", "training.lr=1e9"])
def test_where_there_is_no_guess_none_is_made(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve([set_layer([word])[0]], TrainConfig)
    assert "did you mean" not in str(caught.value)


def test_which_machines_fit_a_profile(tmp_path: Path) -> None:
    def machine(name: str, product: str = "", gpu: str = "", kaggle: bool = False, stack: bool = False) -> Path:
        root = tmp_path / name
        (root / "sys/class/dmi/id").mkdir(parents=True)
        (root / "sys/class/dmi/id/product_name").write_text(f"{product}\n")
        if gpu:
            (root / "proc/driver/nvidia/gpus/0").mkdir(parents=True)
            (root / "proc/driver/nvidia/gpus/0/information").write_text(f"Model: \t\t {gpu}\n")
        if kaggle:
            (root / "kaggle/working").mkdir(parents=True)
        if stack:
            (root / "etc/apt/sources.list.d").mkdir(parents=True)
            (root / "etc/apt/sources.list.d/lambda-repository.list").touch()
        return root

    google = "Google Compute Engine"
    machines = {
        "laptop": machine("laptop"),
        "gce": machine("gce", google, "NVIDIA L4"),
        "gce with an A100": machine("gce-a100", google, "NVIDIA A100-SXM4-40GB"),
        "H100": machine("h100", gpu="NVIDIA H100 80GB HBM3"),
        "Kaggle": machine("kaggle", google, "Tesla T4", kaggle=True),
        "Lambda": machine("lambda", gpu="NVIDIA A10", stack=True),
    }
    fitting = {name: [env for env in ENVIRONMENTS if fits(env, root, {})[0]] for name, root in machines.items()}
    assert {name: set(envs) for name, envs in fitting.items()} == {
        "laptop": {"local"},
        "gce": {"local", "gcp"},
        "gce with an A100": {"local", "gcp", "a100"},
        "H100": {"local"},
        "Kaggle": {"local", "kaggle", "gcp"},
        "Lambda": {"local", "lambda"},
    }
    assert fits("a100", machines["H100"], {}) == (None, "has NVIDIA H100 80GB HBM3")
    assert fits("gcp", machines["laptop"], {})[0] is False


@pytest.mark.parametrize(
    ("gpu", "divided", "told"),
    [
        ("NVIDIA A100 80GB PCIe", False, None),
        ("GRID A100-40C", False, None),
        ("GRID A100D-80C", False, None),
        ("GRID A100-10C", False, "has a part of an A100 (GRID A100-10C) with 10 GB; the profile is for 40 and more"),
        ("NVIDIA A100D-2-20C", False, "has a part of an A100 (NVIDIA A100D-2-20C) with 20 GB; the profile is for 40 and more"),
        (
            "NVIDIA A100-SXM4-40GB",
            True,
            "has NVIDIA A100-SXM4-40GB, divided by MIG: a part has less than the 40 GB that the profile is for",
        ),
    ],
)
def test_less_than_the_memory_of_a_profiles_gpu_is_told(tmp_path: Path, gpu: str, divided: bool, told: str | None) -> None:
    driver = tmp_path / "proc/driver/nvidia"
    (driver / "gpus/0").mkdir(parents=True)
    (driver / "gpus/0/information").write_text(f"Model: \t\t {gpu}\n")
    (driver / "capabilities/gpu0/mig").mkdir(parents=True)
    if divided:
        (driver / "capabilities/gpu0/mig/gi1").mkdir()
    assert fits("a100", tmp_path, {}) == ((True, "a100") if told is None else (None, told))
    assert fits("kaggle", tmp_path, {})[0] is False
