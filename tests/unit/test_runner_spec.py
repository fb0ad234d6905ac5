"""Job files: what is accepted, what is refused and how."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from rich.console import Console

from last_e.config import AugmentationsConfig
from last_e.problems import ConfigError
from runner.attempt.scratch import see_scratch
from runner.errors import UsageError
from runner.job.job import new_id
from runner.job.paths import GROUP_ID, JOB_ID, POINT_ID, made_at
from runner.launch.approve import approve
from runner.launch.start import make_launcher
from runner.launchers import LAUNCHERS, NAMES
from runner.resolve import absolute_settings, as_name, resolve_attempt, resolve_points, resolve_spec
from runner.spec import JobName
from runner.store.directory import DirectoryStore
from runner.view import jobs
from tests.conftest import Cli

SWEEPS = sorted((Path(__file__).parents[2] / "jobs" / "sweeps").glob("*.yaml"))
JOBS = sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))

ALL: Any = {"takes": lambda key, value: True, "options": None}
"""Of a job that this user has submitted."""


def problems_of(text: str, path: Path, *settings: str, env: str | None = None) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        resolve_spec(path, env, settings)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("text", ["nano_e_v3-My Set_v2.1-xsub", "-" * 9, "ÄÖ", f"nano_e_v3-{'x' * 37}-{'y' * 99}", ""])
def test_any_text_becomes_a_name_by_which_a_job_is_found(text: str) -> None:
    name = as_name(text)
    TypeAdapter(JobName).validate_python(name)
    assert JOB_ID.fullmatch(new_id(name))
    assert GROUP_ID.fullmatch(new_id(name))
    assert made_at(new_id(name)) == pytest.approx(time.time(), abs=5)
    assert POINT_ID.fullmatch(f"{new_id(name)}p0001")


def test_jobs_that_are_made_in_one_second_share_no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.job.job.time.strftime", lambda *_: "20260101-000000")
    drawn = [new_id("many") for _ in range(300)]
    assert len(set(drawn)) == len(drawn)
    assert all(re.fullmatch(r"many-20260101-000000-[0-9b-df-hjkmnp-tv-xz]{6}", one) for one in drawn)


@pytest.mark.parametrize("job_id", ["many-20260101-000000-12ab", "many-20260101-000000-bcdfgh"])
def test_ids_of_older_versions_are_known(job_id: str) -> None:
    assert GROUP_ID.fullmatch(job_id)
    assert not POINT_ID.fullmatch(job_id)
    assert made_at(job_id) == made_at(f"{job_id}p0002") is not None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "job.yaml"


def test_there_is_a_job_for_the_quickstart_and_for_every_command_of_the_reference() -> None:
    names = [job.name for job in JOBS]
    kaggle = [f"{v}_ntu60_kaggle.yaml" for v in ("nano", "small", "base", "large")]
    assert names == sorted([*kaggle, "base_ntu60_docker.yaml", "quickstart.yaml", "quickstart-docker.yaml"])


def test_the_jobs_for_containers_learn_what_their_models_learn() -> None:
    for name, other in (("quickstart-docker", "quickstart"), ("base_ntu60_docker", "base_ntu60_kaggle")):
        one, two = (resolve_spec(JOBS[0].parent / f"{job}.yaml", "local", []) for job in (name, other))
        differing = {key for key, value in one.items().items() if two.items()[key] != value}
        assert one.config.run.launcher == "docker"
        assert all(key.startswith("run.") for key in differing), differing


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_every_job_that_is_shipped_is_valid(job: Path) -> None:
    config = resolve_spec(job, None, []).config
    batch = {"nano": 64, "small": 48, "base": 32, "large": 24}[config.model.variant.split("_")[0]]
    if config.env == "kaggle":
        assert (config.training.epochs, config.training.batch_size, config.dataset) == (120, batch, "ntu60")
        assert (config.hardware.num_workers, config.hardware.session_limit) == (2, 9 * 3600)


@pytest.mark.parametrize("sweep", [path for path in SWEEPS if path.stem != "options"], ids=lambda path: path.stem)
def test_every_sweep_that_is_shipped_compares_two_recipes_of_two_models_by_three_seeds(sweep: Path) -> None:
    points = [point.job.config for point in resolve_points(sweep, "local", []).points]
    assert all(one.data == points[0].data for one in points)
    seen = [(one.model.variant, one.recipe, one.training.seed) for one in points]
    assert sorted(seen, key=str) == sorted(product(("nano_e_v3", "base_e_v3"), (None, "robust"), (42, 43, 44)), key=str)


def test_a_sweep_has_each_augmentation_by_itself() -> None:
    points = [point.job.config for point in resolve_points(SWEEPS[0].with_name("options.yaml"), "local", []).points]
    alone = [
        sorted(
            [name for name, value in one.training.augmentations if value is not None] + ["ema"] * (one.training.ema is not None)
        )
        for one in points
        if not one.recipe
    ]
    names = {*AugmentationsConfig.model_fields, "ema"} - {"motion_range", "motion_from"}
    assert sorted(alone) == sorted([[], [], [], *([name] for name in names for _ in range(3))])
    of_recipe = {name: value for name, value in points[-1].training.augmentations if value is not None and name in names}
    assert points[-1].recipe == "robust"
    for name, value in of_recipe.items():
        assert value in [getattr(one.training.augmentations, name) for one in points if not one.recipe], (
            f"{name} as the recipe has it"
        )


def test_all_mistakes_are_told_at_once_with_file_line_key_and_what_is_allowed(path: Path) -> None:
    text = "model: bass\ntraining:\n  epochs: 0\n  lr: fast\n  epoch: 3\nrun: {launcher: kaggle, gpus: 2}\nname: Not Good\n"
    text += "dataset: irds\n"
    found = problems_of(text, path, "training.seed=-1", env="moon")
    assert found == [
        "--env: env: found 'moon'; allowed: one of auto, local, kaggle, gcp, lambda, a100",
        "--set: training.seed: found -1; allowed: a whole number at least 0, < 9223372036854775808",
        f"{path}:1: model.variant: found 'bass'; allowed: one of nano_e_v3, small_e_v3, base_e_v3, large_e_v3",
        f"{path}:3: training.epochs: found 0; allowed: a whole number at least 1, at most 100000",
        f"{path}:4: training.lr: found 'fast'; allowed: a number > 0, at most 100",
        f"{path}:5: training.epoch: found an unknown key (= 3); allowed: known keys only; did you mean training.epochs?",
        f"{path}:6: run.gpus: found 2; allowed: 0, 1 or all with launcher kaggle",
        f"{path}:7: name: found 'Not Good'; "
        "allowed: at most 48 lowercase letters, digits and hyphens, the first no hyphen or null; did you mean not-good?",
    ]


def test_the_launcher_that_was_meant_is_named(path: Path) -> None:
    assert problems_of("model: nano\ndataset: irds\nrun: {launcher: dokcer}\n", path) == [
        f"{path}:3: run.launcher: found 'dokcer'; allowed: one of {NAMES}; did you mean docker?"
    ]


@pytest.mark.parametrize("name", [name for name, kind in LAUNCHERS.items() if not kind.has_nodes])
def test_several_machines_are_for_a_launcher_that_has_them(path: Path, name: str) -> None:
    assert problems_of(f"model: nano\ndataset: irds\nrun: {{launcher: {name}, nodes: 2, gpus: 0}}\n", path) == [
        f"{path}:3: run.nodes: found 2; allowed: 1 with launcher {name}; several with slurm, which begins and ends machines "
        "together"
    ]


def test_a_mistake_counts_also_where_a_flag_overrides_it(path: Path) -> None:
    found = problems_of("model: nano\ndataset: irds\ntraining: {epochs: many}\n", path, "training.epochs=3")
    assert len(found) == 1
    assert "training.epochs: found 'many'" in found[0]


def test_model_and_data_set_are_required(path: Path) -> None:
    found = problems_of("training: {epochs: 3}\n", path)
    assert [f.split(": ")[1] for f in found] == ["dataset", "model"]


@pytest.mark.parametrize("text", ["", "[1, 2]", "model: *x", "a: {b", "model: nano\nmodel: base\n", "\x00", "- " * 3000])
def test_a_file_that_is_no_job_is_refused_in_clear_lines(path: Path, text: str) -> None:
    assert problems_of(text, path)[0].startswith(str(path))


@pytest.mark.parametrize("value", ["[WANDB_API_KEY=abc123]", "{WANDB_API_KEY: abc123}", "WANDB_API_KEY"])
def test_only_names_of_variables_may_be_passed_on(path: Path, value: str) -> None:
    assert problems_of(f"model: nano\ndataset: irds\nrun: {{pass_env: {value}}}\n", path)


def test_a_variable_to_pass_on_must_be_set(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "model: nano\ndataset: irds\nrun:\n  pass_env: [LASTRUN_TEST_A, LASTRUN_TEST_B]\n"
    monkeypatch.setenv("LASTRUN_TEST_A", "1")
    found = problems_of(text + "training: {lr: fast}\n", path)
    assert len(found) == 2  # with the other mistakes, not after them
    assert "LASTRUN_TEST_B, which is not set" in found[0]
    assert "training.lr" in found[1]
    path.write_text(text)
    monkeypatch.setenv("LASTRUN_TEST_B", "1")
    assert resolve_spec(path, None, []).config.run.pass_env == ["LASTRUN_TEST_A", "LASTRUN_TEST_B"]


def test_keys_may_stand_where_the_reference_or_the_job_example_has_them(path: Path) -> None:
    path.write_text("model: base\ndataset: irds\nstore: {keep_last: 7}\nrun: {time_limit: 8h50m}\ntraining: {dropout: 0.4}\n")
    config = resolve_spec(path, None, ["training.num_workers=3"]).config
    assert config.checkpoint.keep_last == 7
    assert config.hardware.session_limit == 8 * 3600 + 50 * 60
    assert config.model.dropout == 0.4
    assert config.hardware.num_workers == 3


def test_layers_lie_on_each_other_in_the_order_of_the_design(path: Path) -> None:
    path.write_text("model: base\ndataset: irds\nenv: kaggle\ntraining: {lr: 0.05, epochs: 9}\n")
    resolved = resolve_spec(path, "a100", ["training.epochs=11"])
    origins = {key: str(origin) for key, origin in resolved.origins.items()}
    assert (resolved.config.training.epochs, origins["training.epochs"]) == (11, "--set")
    assert (resolved.config.training.lr, origins["training.lr"]) == (0.05, f"{path}:4")
    assert (resolved.config.hardware.num_workers, origins["env"]) == (16, "--env")
    assert origins["hardware.num_workers"].startswith("configs/env/a100.yaml:")
    assert origins["model.dropout"].startswith("configs/model/base_e_v3.yaml:")
    assert origins["training.momentum"].startswith("configs/training/cosine_v3.yaml:")
    assert origins["data.num_classes"].startswith("configs/data/irds.yaml:")
    assert set(origins) == set(resolved.items())


def test_a_recipe_lies_under_what_the_user_says(path: Path) -> None:
    path.write_text("model: nano\ndataset: irds\nrecipe: robust\ntraining: {augmentations: {lean: null, drift: 0.3}}\n")
    resolved, plain = resolve_spec(path, "local", []), resolve_spec(path, "local", ["recipe=null"])
    more = resolved.config.training.augmentations
    assert (more.mirror, more.motion, more.motion_range) == (0.5, 0.7, [0.15, 1.1])
    assert (more.lean, more.drift) == (None, 0.3)
    assert str(resolved.origins["training.augmentations.motion"]).startswith("configs/training/robust.yaml:")
    assert str(resolved.origins["training.momentum"]).startswith("configs/training/cosine_v3.yaml:")
    assert plain.config.training.augmentations.motion is None
    other = {key for key, value in resolved.items().items() if value != plain.items()[key]}
    assert other == {"recipe", *(f"training.augmentations.{name}" for name in _ROBUST)}


_ROBUST = ("mirror", "motion", "motion_range", "limbs", "pose", "mask_joints", "noise")
"""Without what the test itself takes away."""


def test_what_is_taken_away_from_a_recipe_takes_along_what_rests_on_it(path: Path) -> None:
    path.write_text("model: nano\ndataset: irds\nrecipe: robust\n")
    still = resolve_spec(path, "local", ["training.augmentations.motion=null"]).config.training.augmentations
    assert (still.motion, still.motion_range, still.limbs) == (None, None, 0.1)
    plain = resolve_spec(path, "local", ["training.augment=false"])
    assert all(value is None for _, value in plain.config.training.augmentations)
    assert plain.notes[1:] == ["warning: nothing is left of recipe robust: training.augment is off; set recipe=null, too"]
    problem = problems_of("model: nano\ndataset: irds\ntraining: {augmentations: {motion_range: [0, 1]}}\n", path)
    assert "only with training.augmentations.motion" in problem[0]  # what the user said is told


def test_a_recipe_mirrors_only_where_a_set_says_what_changes_places(path: Path) -> None:
    path.write_text("model: nano\ndataset: synthetic\nrecipe: robust\n")
    found = resolve_spec(path, "local", [])
    more = found.config.training.augmentations
    assert (more.mirror, more.motion) == (None, 0.7)
    assert found.notes[1:] == [
        "recipe robust goes without mirror: nobody knows which classes of synthetic change places (a set of your own says so "
        "when it is made: mirrored)"
    ]
    assert resolve_spec(path, "local", ["training.augmentations.mirror=null"]).notes[1:] == [], "who says so knows"
    problem = problems_of("model: nano\ndataset: irds\nrecipe: robus\n", path)
    assert problem == [f"{path}:3: recipe: found 'robus'; allowed: one of robust or null; did you mean robust?"]


def test_a_job_keeps_its_recipe_wherever_it_goes_on(path: Path) -> None:
    path.write_text("model: nano\ndataset: irds\nrecipe: robust\ntraining: {epochs: 4}\n")
    made = resolve_spec(path, "local", [])
    record, origins = made.items(), {key: str(origin) for key, origin in made.origins.items()}
    went_on = resolve_attempt(record, origins, "local", [], [], **ALL)[0].config
    assert (went_on.recipe, went_on.training) == ("robust", made.config.training)
    for allowed in ([], ["recipe"]):  # its keys are told one by one, and would not change with it
        with pytest.raises(
            ConfigError, match="recipe: found null; allowed: 'robust', as the run began: a job keeps each of its keys"
        ):
            resolve_attempt(record, origins, "local", ["recipe=null"], allowed, **ALL)
    older = {key: value for key, value in record.items() if key != "recipe"}  # of a version that knew no other
    assert resolve_attempt(older, origins, "local", [], [], **ALL)[0].config.recipe is None


class TestGoingOnElsewhere:
    """What an attempt takes from the job's record, and what from its machine."""

    @pytest.fixture
    def record(self, path: Path) -> tuple[dict[str, object], dict[str, str]]:
        path.write_text("model: nano\ndataset: irds\nenv: kaggle\ntraining: {batch_size: 16}\nhardware: {pin_memory: false}\n")
        resolved = resolve_spec(path, None, ["training.lr=0.05"])
        return resolved.items(), {key: str(origin) for key, origin in resolved.origins.items()}

    def test_hardware_follows_the_profile_and_the_rest_stays(self, record: tuple[dict[str, object], dict[str, str]]) -> None:
        resolved, changes = resolve_attempt(*record, "a100", [], [], **ALL)
        assert resolved.config.training.lr == 0.05
        assert resolved.config.hardware.pin_memory is False
        assert resolved.config.hardware.num_workers == 16
        assert {c.key: (c.before, c.after) for c in changes if not c.pinned}["hardware.precision"] == ("fp16", "bf16")
        assert not any(c.pinned for c in changes)

    def test_without_a_new_profile_nothing_changes(self, record: tuple[dict[str, object], dict[str, str]]) -> None:
        assert resolve_attempt(*record, None, [], [], **ALL)[1] == []

    @pytest.mark.parametrize("setting", ["training.lr=0.01", "training.seed=7", "model.dropout=0.5", "dataset=ntu60"])
    def test_what_decides_learning_is_refused(self, record: tuple[dict[str, object], dict[str, str]], setting: str) -> None:
        with pytest.raises(ConfigError, match="--allow-change"):
            resolve_attempt(*record, None, [setting], [], **ALL)

    def test_and_admitted_when_named(self, record: tuple[dict[str, object], dict[str, str]]) -> None:
        resolved, changes = resolve_attempt(*record, None, ["training.lr=0.01"], ["training.lr"], **ALL)
        assert resolved.config.training.lr == 0.01
        assert [(c.key, c.pinned) for c in changes] == [("training.lr", True)]

    def test_a_key_that_there_is_not_is_told_with_the_nearest(self, record: tuple[dict[str, object], dict[str, str]]) -> None:
        with pytest.raises(ConfigError) as end:
            resolve_attempt(*record, None, [], ["training.epoch"], **ALL)
        assert [str(problem) for problem in end.value.problems] == [
            "--allow-change: training.epoch: found no key that decides learning; allowed: known keys only; did you mean "
            "training.epochs?"
        ]

    def test_a_key_of_a_later_version_is_no_change_until_somebody_sets_it(
        self, record: tuple[dict[str, object], dict[str, str]]
    ) -> None:
        config, origins = record
        for key in ("hardware.kernels", "checkpoint.log_every_steps", "training.ema"):
            del config[key], origins[key]
        assert resolve_attempt(config, origins, None, [], [], **ALL)[1] == []
        (change,) = resolve_attempt(config, origins, None, ["hardware.kernels=off"], [], **ALL)[1]
        assert (change.key, change.before, change.after) == ("hardware.kernels", None, "off")

    def test_the_effective_batch_is_pinned_not_its_factors(self, record: tuple[dict[str, object], dict[str, str]]) -> None:
        halves = ["training.batch_size=8", "training.gradient_accumulation_steps=2"]
        resolve_attempt(*record, None, halves, [], **ALL)
        with pytest.raises(ConfigError, match="batch_size"):
            resolve_attempt(*record, None, halves[:1], [], **ALL)

    def test_a_defaults_change_in_a_later_release_does_not_reach_an_old_job(
        self, record: tuple[dict[str, object], dict[str, str]]
    ) -> None:
        config, origins = record
        config["training.momentum"] = 0.8  # as if the release that made the job had another default
        assert resolve_attempt(config, origins, "gcp", [], [], **ALL)[0].config.training.momentum == 0.8


def test_validate_and_explain_speak_json(cli: Cli, tiny: Path) -> None:
    valid = json.loads(cli("validate", tiny, "--json").stdout)
    assert (valid["lastrun"], valid["version"], valid["valid"]) == ("validate", 1, True)
    explained = json.loads(cli("explain", tiny, "--json", "--set", "training.lr=0.2", "model.dropout=0.1").stdout)["config"]
    assert explained["training.lr"] == {"value": 0.2, "origin": "--set"}
    assert explained["model.dropout"] == {"value": 0.1, "origin": "--set"}
    assert explained["training.epochs"] == {"value": 3, "origin": f"{tiny}:4"}


def test_mistakes_end_with_code_2_and_no_traceback(cli: Cli, tiny: Path) -> None:
    result = cli("submit", tiny, "--set", "training.lr=x", "nonsense=1", "--env", "mars")
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 3
    assert all(line.startswith("error: ") for line in result.stderr.splitlines())
    assert not (tiny.parent / "store").exists()


def test_a_relative_path_is_meant_from_where_it_was_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/usr")
    path.write_text(
        "model: nano_e_v3\ndataset: synthetic\nhardware: {data_root: data, scratch_root: ~/scratch}\n"
        "store: {ca_bundle: ./ca.pem}\n"
    )
    config = resolve_spec(path, None, ["data.uri=x/y.safetensors", "hardware.scratch_root=/abs"]).config
    assert (config.hardware.data_root, config.store.ca_bundle) == (f"{path.parent}/data", f"{path.parent}/ca.pem")
    assert (config.data.uri, config.hardware.scratch_root) == ("/usr/x/y.safetensors", "/abs")
    assert resolve_spec(path, None, []).config.hardware.scratch_root == "~/scratch"


def test_settings_for_an_attempt_mean_the_same_in_any_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/usr")
    words = ["data.uri=it's", "hardware.scratch_root=~/y", "training.epochs=3", "store.ca_bundle=/ca", "data.uri=s3://b/k"]
    assert absolute_settings(words) == words
    assert absolute_settings(words[:2]) == [*words[:2], 'data.uri="/usr/it\'s"']
    config, origins = {"env": "local"}, {"env": "default"}
    with pytest.raises(ConfigError):
        resolve_attempt(config, origins, None, absolute_settings(["hardware.scratch_root=[1]"]), [], **ALL)


def test_a_dry_run_writes_nothing(cli: Cli, tiny: Path) -> None:
    result = cli("submit", tiny, "--dry-run")
    assert result.returncode == 0
    assert "would submit tiny" in result.stdout
    assert "configs/" not in result.stdout, "what nobody set is shown by explain alone"
    assert "# default" not in result.stdout
    assert len(result.stdout.splitlines()) < 40
    assert not (tiny.parent / "store").exists()


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("data.uri=s3://", "allowed: a folder"),
        ("store.uri=s3://b?endpoint_url=http://h:70000", "endpoint_url is"),
        ("store.endpoint_url=http://h:70000", "a port from 1 to 65535 or none"),
        ("store.endpoint_url=http://h/?t=1", "an http:// or https:// address"),
    ],
)
def test_validate_reads_the_name_of_a_place_in_a_bucket(setting: str, word: str, tiny: Path, cli: Cli) -> None:
    done = cli("validate", tiny, "--set", setting)
    assert done.returncode == 2, done.stdout
    assert word in done.stderr


@pytest.mark.parametrize("folder", ["/dev/null", "/dev/null/x", "/proc/none/x", "~nobody9/x"])
def test_a_scratch_folder_that_cannot_be_used_is_told_before_there_is_a_job(folder: str, tiny: Path) -> None:
    resolved = resolve_spec(tiny, "local", [f"hardware.scratch_root={folder}"])
    with pytest.raises(UsageError, match=r"hardware\.scratch_root: .*; set another with --set"):
        see_scratch(resolved)
    with pytest.raises(UsageError, match=r"hardware\.scratch_root: .*"):
        approve(make_launcher(resolved.config), DirectoryStore(tiny.parent / "store"), resolved, here=False, only_look=True)


def test_a_scratch_folder_that_is_yet_to_be_made_is_only_looked_at(tiny: Path, tmp_path: Path) -> None:
    see_scratch(resolve_spec(tiny, "local", [f"hardware.scratch_root={tmp_path}/new/inner"]))
    assert not (tmp_path / "new").exists()


def test_the_runner_reaches_the_trainer_only_through_its_torch_free_vocabulary() -> None:
    code = (
        "import sys, pkgutil, importlib, runner\n"
        "for module in pkgutil.walk_packages(runner.__path__, 'runner.'):\n"
        "    if module.name.endswith('__main__'): continue\n"
        "    try: importlib.import_module(module.name)\n"
        "    except ModuleNotFoundError as error:  # the lowest versions have no part of the extra\n"
        "        assert (error.name, module.name[:10]) in {('starlette', 'runner.ui.'), ('uvicorn', 'runner.ui.')}, error\n"
        "print(' '.join(sorted(m for m in sys.modules if m.startswith('last_e.'))))\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    vocabulary = "choosing init known config console counts datafile described environment events joints layers manifest"
    vocabulary += (
        " bar light metrics own_set predictions problems process progress reading redact refusal resume set_by skeletons"
    )
    vocabulary += " terminal text whole"
    assert {name.split(".")[1] for name in done.stdout.split()} <= {
        *vocabulary.split(),
        "text",
    }  # some only when they are needed


@pytest.mark.parametrize(
    ("setting", "fits"),
    [
        ("run.memory=12g", True),
        ("run.memory=9999999999g", False),
        ("run.shm_size=64m", True),
        ("run.shm_size=0g", False),
        ("run.cpus=0.5", True),
        ("run.cpus=1.0e-10", False),
    ],
)
def test_limits_are_what_an_engine_can_take(tmp_path: Path, setting: str, fits: bool) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("model: nano\ndataset: irds\nrun: {launcher: docker}\n")
    if fits:
        resolve_spec(job, "local", [setting])
    else:
        with pytest.raises(ConfigError):
            resolve_spec(job, "local", [setting])


@pytest.mark.parametrize("width", [70, 80, 120])
def test_a_list_breaks_no_word_on_a_narrow_screen(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(jobs, "make_console", lambda: Console(width=width, file=out))
    name = "quickstart-docker-x-20261127-141305-af57"
    facts = {"id": name, "state": "succeeded", "epoch": 5, "epochs": 120, "best_top1": 0.9982, "env": "kaggle", "created_at": 0}
    jobs.print_jobs([facts], "s", False)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)
    assert all(text in lines[2] for text in (name, "succeeded", "5/120"))
    assert ("99.82%" in lines[2]) == (width >= 80)
    assert ("kaggle" in lines[2]) == (width >= 100)


def test_variables_in_places_are_replaced_where_they_are_written_and_unset_ones_told_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA", "/d")
    path = tmp_path / "job.yaml"
    path.write_text("model: nano_e_v3\ndataset: ntu60\ndata: {uri: '${DATA}/x'}\nhardware: {scratch_root: $DATA}\nname: a\n")
    config = resolve_spec(path, "local", ["store.uri=s3://b/${DATA}x"]).config
    assert (config.data.uri, config.hardware.scratch_root, config.store.uri) == ("/d/x", "/d", "s3://b//dx")
    monkeypatch.delenv("DATA")
    with pytest.raises(ConfigError) as caught:
        resolve_spec(path, "local", ["store.uri=s3://${OTHER}/x"])
    assert [problem.key for problem in caught.value.problems] == ["store.uri", "data.uri", "hardware.scratch_root"]
    assert "the variable DATA is not set" in str(caught.value)
    for wrong in ("s3:/bucket/x", "S3://bucket/x"):
        with pytest.raises(ConfigError, match=r"did you mean s3://bucket/x\?"):
            resolve_spec(path, "local", [f"data.uri={wrong}", "hardware.scratch_root=/x"])
