"""``import runner``: what the commands do, from Python and in a notebook."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import numpy as np
import pytest

import runner
from runner.errors import Exit
from tests.checkpoints import SMALL, config_of, untrained
from tests.conftest import Cli
from tests.jobs import has_pending, some_step_is_stored, stand_still, trainer_of, wait_until
from tests.ntu_files import motion

ROOT = Path(__file__).parents[2]
LIGHT = """\
import sys
before = set(sys.modules)
import runner
ours = {name for name in set(sys.modules) - before if name.partition(".")[0] in ("runner", "last_e", "pydantic", "yaml")}
assert ours == {"runner"}, ours
assert set(runner.__all__) <= set(dir(runner))
runner.submit, runner.Job, runner.jobs
heavy = {"torch", "numpy", "numba", "safetensors", "boto3", "docker", "rich", "typer", "pandas", "IPython"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
for name in runner.__all__:
    getattr(runner, name)
"""
EXECUTE = """\
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[1])
"""


@pytest.fixture
def here(tmp_path: Path, clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process as a user's own."""
    for name, value in clean_env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_importing_it_imports_nothing_and_every_name_is_there() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'submitt'"):
        runner.submitt  # noqa: B018


@pytest.mark.slow
def test_a_job_goes_through_python_as_through_the_commands(here: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    values = {key: value for key, value in SMALL.items() if key != "training.input_frames"}
    spec = {**values, "name": "mine", "dataset": "synthetic", "checkpoint": {"every_minutes": 0.002}}
    spec["training"] = {"epochs": 3, "batch_size": 10, "input_frames": 16, "warmup_epochs": 1}
    job = runner.submit(spec)
    wait_until(lambda: some_step_is_stored(job._job))
    process = trainer_of(job._job)
    stand_still(process)  # however slow this machine is, it is stopped in the middle
    try:
        assert job.state == "running"
        assert runner.find("mine") == job == runner.jobs()[0]
        with pytest.raises(TimeoutError, match="is running after 0 s"):
            job.wait(0, progress=False)
        with pytest.raises(runner.LastrunError, match="is being run by") as refused:
            job.resume()
        assert refused.value.exit_code == Exit.CLAIMED
        job.stop()
        wait_until(lambda: has_pending(process, signal.SIGTERM))
    finally:
        os.kill(process, signal.SIGCONT)
    assert job.wait(progress=False).state == "stopped"

    job.resume().wait()
    assert job.state == "succeeded"
    assert f"{job.id}: succeeded, epoch 3 of 3, test top-1 " in capsys.readouterr().err
    table = job.metrics()
    assert table.column("epoch") == [1, 2, 3]
    frame = table.to_pandas()
    assert frame["test_top1"].tolist() == table.column("test_top1")
    assert "<th>epoch</th>" in table._repr_html_()
    assert job.steps().column("step") == list(range(10, table.column("step")[-1] + 1, 10))
    assert "--- attempt 2 on" in job.logs() == "".join(job.follow())

    found = job.evaluate(progress=False)
    told = json.loads(cli("evaluate", job.id, "--json").stdout)
    assert {key: found[key] for key in ("top1", "top5", "loss", "confusion")} == {
        key: told[key] for key in ("top1", "top5", "loss", "confusion")
    }
    assert len(found["said"]) == told["clips"]
    model = runner.load_model(job)
    assert not model.training
    assert model.description.classes[0] == "class 0"
    for wrong in (lambda: job.stop(), lambda: job.resume(), lambda: runner.find("nobody")):
        with pytest.raises(runner.LastrunError) as refused:
            wrong()
        assert "lastrun" in str(refused.value) or "nothing to stop" in str(refused.value)


def test_mistakes_in_a_job_are_an_error_with_all_of_them(here: Path) -> None:
    with pytest.raises(runner.SpecError) as wrong:
        runner.submit({"model": "nan", "training": {"epochs": 0}})
    assert str(wrong.value).splitlines() == [
        "spec: dataset: found nothing; allowed: required: for example dataset: irds",
        "spec: model.variant: found 'nan'; allowed: one of nano_e_v3, small_e_v3, base_e_v3, large_e_v3; "
        "did you mean nano_e_v3?",
        "spec: training.epochs: found 0; allowed: a whole number at least 1, at most 100000",
    ]
    assert [problem.key for problem in wrong.value.problems] == ["dataset", "model.variant", "training.epochs"]
    assert isinstance(wrong.value, runner.LastrunError)
    with pytest.raises(runner.LastrunError, match="no such file"):
        runner.submit("nowhere.yaml")
    with pytest.raises(runner.LastrunError, match="a sweep of 2 points: lastrun submit begins it"):
        runner.submit({"model": "nano", "dataset": "synthetic", "sweep": {"grid": {"training.lr": [0.1, 0.2]}}})
    with pytest.raises(runner.LastrunError, match=r"no checkpoint: it has no MANIFEST\.json"):
        runner.Checkpoint(here)
    assert not (here / "store").exists()


@pytest.mark.slow
def test_arrays_and_files_are_asked_about_alike_from_any_thread(here: Path) -> None:
    np.save(here / "one.npy", motion(0))
    checkpoint = runner.Checkpoint(untrained(here / "model", config_of("irds", **{"data.num_classes": 9})))
    found: list[runner.Predictions] = []

    def ask() -> None:
        found.append(checkpoint.predict("one.npy", motion(0), np.zeros((3, 4, 3)), top=2))

    with pytest.warns(UserWarning, match=r"array-2.npy: its joints are \(1, 3, 4, 3\)"), ThreadPoolExecutor(1) as pool:
        pool.submit(ask).result()
    (rows,) = found
    assert [(row["source"], row["clip"]) for row in rows] == [("one.npy", "one"), ("array-1", "array-1")]
    assert rows[0]["top"] == rows[1]["top"]
    assert (rows[0]["class"], len(rows[0]["top"])) == (rows[0]["top"][0]["class"], 2)
    assert rows.speed["clips"] == 2
    line = checkpoint.predict(motion(0, 120), window=30, stride="0.5s").timeline
    assert (line[0]["begin"], line[-1]["end_seconds"]) == (0, 4.0)
    with pytest.raises(runner.LastrunError, match="neither a file nor an array"):
        checkpoint.predict([["a"]])


@pytest.mark.slow
def test_the_tutorial_runs_as_it_is_written(here: Path, clean_env: dict[str, str]) -> None:
    written = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in written["cells"])
    path = here / "tutorial.ipynb"
    path.write_text(json.dumps(written))
    env = {**clean_env, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", EXECUTE, path], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = [cell.outputs for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    (live,) = [one for one in outputs[1] if one.output_type == "display_data"]  # one, that was renewed
    assert "state       succeeded" in live.data["text/plain"]
    assert "<pre>job " in live.data["text/html"]
    assert "<th>test_top1</th>" in outputs[2][0].data["text/html"]
    assert outputs[3][0].text.startswith("top-1 ")
    assert "elbow flexion left" in outputs[3][1].data["text/html"]
    assert "found 'tiny'; allowed: one of nano_e_v3" in outputs[7][0].text
