"""Fine-tuning as a user does it: weights of a job, a file or a hub, kept with the job; the same bits wherever it goes."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from last_e import train
from last_e.checkpoint import load as load_checkpoint
from last_e.data import write_clips
from last_e.data.synthetic import synthetic_clips
from last_e.stop import Stop
from runner.errors import UsageError
from runner.job.job import Job
from runner.launch.kaggle.parcel import pack, unpack
from runner.resolve import resolve_spec
from runner.store.directory import DirectoryStore
from runner.store.open import open_store
from runner.weights import with_their_weights
from tests.conftest import Cli
from tests.hub import Hub
from tests.integration.test_choosing import files, newest
from tests.integration.test_trainer_resume import Events, StopAfter, go, here, tiny  # noqa: F401
from tests.jobs import jobs_in

TUNES = ("data.num_classes=7", "training.body_lr_factor=0.5", "model.freeze=[fusion.*, stages.0.*]")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "synthetic.safetensors"
    write_clips(copy.deepcopy(synthetic_clips(6, 72)), path)
    return path


@pytest.mark.usefixtures("here")
def test_a_fine_tuned_run_is_the_same_wherever_it_is_cut(data: Path, tmp_path: Path) -> None:
    go(tiny(data, "training.epochs=1"), tmp_path / "first")
    source = newest(tmp_path / "first")
    config = tiny(data, f"model.init={source}", "training.class_weights=balanced", "data.validation=0.3", *TUNES)

    def tuned(out: Path, resume: Path | None = None, stop: Stop | None = None) -> tuple[str, list[str]]:
        events = Events()
        ended = train.run(config, out, resume, events, stop or Stop(), init=source)
        return ended.reason, [str(getattr(event, "text", "")) for event in events.seen]

    reason, told = tuned(tmp_path / "whole")
    assert reason == "completed"
    assert any("fc.weight: 6 x 4 there, 7 x 4 here (other classes)" in text for text in told)
    out, resume = tmp_path / "run", None
    for _ in range(9):
        reason, told = tuned(out, resume, StopAfter(6))
        resume = newest(out)
        if reason == "completed":
            break
        source = tmp_path / "it is gone"  # a checkpoint has all of it
    assert files(out) == files(tmp_path / "whole")
    assert [text for text in told if text.startswith("init")] == []
    first, last = (load_checkpoint(newest(tmp_path / name))[0]["model"] for name in ("first", "whole"))
    still = [name for name in first if name.startswith(("fusion.", "stages.0."))]
    assert all(torch.equal(first[name], last[name]) for name in still)
    assert not torch.equal(first["stages.1.0.gcn.bn.running_mean"], last["stages.1.0.gcn.bn.running_mean"])


def begun(tiny_job: Path, store: DirectoryStore, *words: str) -> Job:
    """A job that has been made, and nothing of it trained."""
    resolved = resolve_spec(tiny_job, "local", words)
    [one] = with_their_weights([resolved], store.uri)
    origins = {key: str(origin) for key, origin in one.job.origins.items()}
    return Job.create(store, "tuned", one.job.items(), origins, "0", one.weights)


def test_weights_are_kept_with_the_job_and_their_source_is_needed_no_more(
    cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_epoch = "training.epochs=1"
    assert cli("submit", tiny, "--set", one_epoch).returncode == 0
    store = open_store(str(tmp_path / "store"))
    assert isinstance(store, DirectoryStore)
    (source,) = jobs_in(store)
    final = torch.load(io.BytesIO(store.get(source.paths.checkpoint(source.checkpoints.all()[-1].name, "state.pt"))))["model"]
    job = begun(tiny, store, f"model.init={source.id}", "model.freeze=[fusion.*]", one_epoch)
    kept = load(store.get(job.paths.init))
    assert kept.keys() == final.keys()
    assert all(torch.equal(kept[name], final[name]) for name in final)
    # In other hands: in a parcel, and in a store of which the source is gone.
    (tmp_path / "parcel").write_bytes(pack(job))
    there = Job(DirectoryStore(tmp_path / "there"), job.id)
    unpack(tmp_path / "parcel", hashlib.sha256((tmp_path / "parcel").read_bytes()).hexdigest(), there)
    assert there.store.get(there.paths.init) == store.get(job.paths.init)
    shutil.rmtree(tmp_path / "store" / source.id)
    done = cli("resume", job.id, "--trust")
    assert done.returncode == 0, done.stderr
    assert "init: 4,412 of 4,412 parameters taken over" in done.stdout
    end = torch.load(io.BytesIO(store.get(job.paths.checkpoint(job.checkpoints.all()[-1].name, "state.pt"))))["model"]
    assert torch.equal(end["fusion.proj.0.weight"], final["fusion.proj.0.weight"])
    assert not torch.equal(end["fc.weight"], final["fc.weight"])
    # A job whose weights are others, or whose record alone names a file, reads neither.
    for spoil, told in ((b"x", "are not what was kept"), (None, "are not kept with it")):
        other = Job.create(store, "other", job.record()["config"], job.record()["origins"], "0", spoil)
        done = cli("resume", other.id)
        assert done.returncode != 0
        assert told in done.stdout + done.stderr
    huge = Job.create(store, "huge", job.record()["config"], job.record()["origins"], "0", b"x")
    os.truncate(tmp_path / "store" / huge.paths.init, 1 << 40)  # takes no room there, and would fill a disk here
    assert "what belongs there never more than 1,073,741,824" in cli("resume", huge.id).stdout
    torch.save(final, tmp_path / "mine.pt")
    config = {**job.record()["config"], "model.init": str(tmp_path / "mine.pt"), "model.init_sha256": None}
    done = cli("resume", Job.create(store, "evil", config, job.record()["origins"], "0").id)
    assert "model.init: the weights that the job begins with are not kept with it" in done.stdout + done.stderr
    refused = cli("resume", job.id, "--set", "model.init=x.pt", "--allow-change", "model.init")
    assert "another network is another run" in refused.stderr
    slower = "--set", "training.body_lr_factor=0.5", "--allow-change", "training.body_lr_factor"
    assert "is another run" in cli("resume", job.id, *slower).stderr  # the optimizer's averages are in other groups


def test_what_does_not_fit_is_told_before_there_is_a_job(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    reference = Path(__file__).parents[1] / "data" / "nano.npz"
    shutil.copy(reference, tmp_path / "nano.npz")
    for words, told in (
        (["model.init=nano.npz"], "these weights are of another network than nano_e_v3"),
        (["model.init=nobody"], "model.init: nobody: no such file here, and as a job: "),
        (["model.init=hf://me"], "allowed: hf://OWNER/REPO"),
    ):
        refused = cli("submit", tiny, "--dry-run", "--set", *words)
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert told in " ".join(refused.stderr.split())
        assert "Traceback" not in refused.stderr
    for words, told in (
        (["--set", "model.init=none.pt"], "error: --set: model.init: found none.pt, and no such file is there; allowed: "),
        (["--deep", "--set", "model.init=nobody"], "model.init: nobody: no such file here, and as a job: "),
    ):
        refused = cli("validate", tiny, *words)
        assert (refused.returncode, told in " ".join(refused.stderr.split())) == (2, True), refused.stderr
    assert not (tmp_path / "store").exists()
    job = tmp_path / "job.yaml"
    job.write_text("model: {variant: nano, init: nano.npz, freeze: [fusion.*]}\ndataset: irds\n")
    done = cli("submit", job, "--dry-run")
    assert "init: begins anew: fc.weight: 60 x 64 there, 9 x 64 here (other classes)" in done.stdout, done.stderr
    assert "freeze: " in done.stdout


def test_points_of_a_sweep_each_keep_theirs(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    resolved = resolve_spec(tiny, "local", [])
    torch.manual_seed(0)
    model = train.LastE(resolved.config.model, 6)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    with tiny.open("a") as file:
        file.write("sweep: {grid: {model.init: [a.pt, null]}}\n")
    done = cli("submit", tiny, "--set", "training.epochs=1", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = sorted(jobs_in(open_store(str(tmp_path / "store"))), key=lambda job: job.id)
    assert (first.store.get(first.paths.init)[:1] != b"", list(second.store.scan(second.paths.init))) == (True, [])
    logs = ["".join(job.log()) for job in (first, second)]
    assert ["init: 4,412 of" in log for log in logs] == [True, False]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    one = Hub(tmp_path / "machines")
    for name, value in {**one.environment(), "HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", one.url)
    yield one
    one.close()


def test_weights_come_from_a_hub(there: Hub, tiny: Path, tmp_path: Path) -> None:
    resolved = resolve_spec(tiny, "local", [])
    weights: dict[str, Any] = train.LastE(resolved.config.model, 6).state_dict()
    written = io.BytesIO()
    torch.save(weights, written)
    there.repos = {
        "me/one": {"README.md": b"#", "weights.pt": written.getvalue()},
        "me/two": {"a/weights.pt": written.getvalue(), "b.npz": b"PK"},
        "me/none": {"README.md": b"#"},
    }
    store = str(tmp_path / "store")

    def found(name: str) -> Any:
        return with_their_weights([resolve_spec(tiny, "local", [f"model.init=hf://{name}"])], store)[0]

    kept = [found(name) for name in ("me/one", "me/two/a/weights.pt", "me/one@main/weights.pt")]
    assert all(torch.equal(load(one.weights)["fc.weight"], weights["fc.weight"]) for one in kept)
    assert len({one.job.config.model.init_sha256 for one in kept}) == 1
    assert kept[0].job.config.model.init == "hf://me/one"
    for name, told in {
        "me/two": r"which file\? Those there are: a/weights.pt, b.npz \(hf://OWNER/REPO/FILE\)",
        "me/two/c.pt": "no such file of weights. Those there are: a/weights.pt",
        "me/none": r"which file\? Those there are: none",
        "me/gone": "there is no such repository, revision or file, or it is not yours to read",
        "me/two/b.npz": "model.init: hf://me/two/b.npz|damaged, or not only numbers",
    }.items():
        with pytest.raises(Exception, match=told) as error:
            found(name)
        assert isinstance(error.value, UsageError) or name.endswith("npz")
    there.away = True
    with pytest.raises(Exception, match="it answers with error 503; it may do in some minutes"):
        found("me/one")
