"""Classes of unequal size: weights and order against a plain computation."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from last_e.config import named_weights
from last_e.data import DataError
from last_e.data.balance import balanced_order, weights_of
from last_e.data.batches import TrainBatches
from last_e.datafile import check_file
from last_e.own_set import check_own
from last_e.reading import load_file
from last_e.step import cross_entropy
from runner.resolve import resolve_spec
from tests.unit.test_own_sets import resolved, written
from tests.unit.test_trainer_step import CLIPS, PLAIN, config, fresh, step, steps, totals, train_step

LABEL = torch.tensor([0] * 50 + [1] * 7 + [3] * 3)


def test_balanced_weights_have_each_class_weigh_the_same_and_a_clip_one_in_the_mean() -> None:
    weights = weights_of(config("training.class_weights=balanced").training, LABEL, 5, ())
    assert weights is not None
    assert weights.tolist() == pytest.approx([60 / (3 * 50), 60 / (3 * 7), 1.0, 60 / (3 * 3), 1.0])
    assert float(weights[LABEL].mean()) == pytest.approx(1.0)
    assert weights_of(config().training, LABEL, 5, ()) is None


def test_weights_are_given_as_a_list_by_name_or_by_number(tmp_path: Path) -> None:
    assert named_weights([1.0, 2.5], 2, ()) == [1.0, 2.5]
    assert named_weights(["b.c=5", "2=0.5"], 3, ("a", "b.c", "d")) == [1.0, 5.0, 0.5]
    assert named_weights(["1=3"], 2, ("0", "1")) == [1.0, 3.0]
    job = tmp_path / "job.yaml"
    path = written(tmp_path / "own.safetensors")
    job.write_text(f"model: nano\ndataset: {path}\ntraining:\n  class_weights:\n    sit: 2\n    stand: 0.5\n")
    assert load_file(job)[1] == []
    assert resolve_spec(job, "local", []).config.training.class_weights == ["sit=2", "stand=0.5"]
    said = resolve_spec(job, "local", ["training.class_weights={stand: 4}"]).config.training.class_weights
    assert said == ["stand=4"]


@pytest.mark.parametrize(
    ("word", "told"),
    [("[stnd=2]", "no class stnd; did you mean stand?"), ("[2=1]", "no class 2; they are sit, stand"),
     ("[sit=0]", "sit=0: a weight is above 0")],
)  # fmt: skip
def test_a_class_that_is_not_there_is_told_before_there_is_a_job(tmp_path: Path, word: str, told: str) -> None:
    path = written(tmp_path / "own.safetensors")
    config = resolved(f"dataset={path}", "training.batch_size=4", f"training.class_weights={word}").config
    with pytest.raises(DataError) as error:
        check_file(config, path, check_own)
    assert told in str(error.value)


def test_the_loss_is_the_weighted_smoothed_cross_entropy() -> None:
    random = np.random.default_rng(0)
    logits, label, weights = random.normal(size=(9, 4)), random.integers(0, 4, 9), random.uniform(0.2, 5, 4)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    q = np.full((9, 4), 0.2 / 4)
    q[np.arange(9), label] += 0.8
    expected = sum(weights[y] * -(q[n] * np.log(p[n])).sum() for n, y in enumerate(label))
    found = cross_entropy(torch.tensor(logits), torch.tensor(label), 0.2, torch.tensor(weights))
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_a_weighted_step_is_that_of_as_many_copies_and_the_ib_loss_stays() -> None:
    """The gradient of a step is linear in the weights, and what is reported adds up; the IB loss has no classes."""
    settings = config("training.ib_loss_weight=0.5", "training.gradient_clip=0", variant="base")
    state, other = fresh(settings), fresh(settings)
    weights = torch.tensor([2.0, 1.0, 0.5, 1.0, 3.0, 1.0])
    state.class_weights = weights
    (batch,) = steps(settings)[0]
    with_weights, good = step(state, [batch], settings)
    assert good
    model = copy.deepcopy(other.model).train()
    with torch.no_grad():
        rows, ib = model(batch.streams, batch.noise, batch.row_weight)
    logits = torch.stack([rows[batch.owner == clip].mean(dim=0) for clip in range(8)])
    log_p = logits.log_softmax(1)
    smooth = settings.training.label_smoothing
    own = (1 - smooth) * -log_p[torch.arange(8), batch.label] + smooth * -log_p.mean(1)
    assert with_weights == pytest.approx(float((own * weights[batch.label]).sum() / 8 + 0.5 * ib), rel=1e-5)
    step(other, [batch], settings)
    assert totals(state).ib_loss == pytest.approx(totals(other).ib_loss, rel=1e-6)
    assert totals(state).hits == totals(other).hits


def test_weights_do_not_depend_on_how_a_step_is_cut() -> None:
    settings = config("training.gradient_clip=0", "model.dropout=0")
    found = []
    for micro in (None, 4):
        state = fresh(settings)
        state.class_weights = torch.tensor([2.0, 1.0, 0.5, 1.0, 3.0, 1.0])
        for norm in state.model.modules():  # their own statistics would differ
            if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
                norm.train = lambda mode=True, norm=norm: norm  # type: ignore[method-assign]
                norm.training = False
        train_step(state, steps(settings, micro)[0], 0.1, settings, PLAIN)
        found.append(torch.cat([p.detach().flatten() for p in state.model.parameters()]))
    assert torch.allclose(*found, atol=1e-6)


def test_a_balanced_order_shows_each_class_as_often_and_its_clips_in_turn() -> None:
    orders = [balanced_order(3, epoch, LABEL) for epoch in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], balanced_order(4, 0, LABEL))
    for order in orders:
        shown = LABEL[order]
        assert len(order) == 60
        assert Counter(shown.tolist()) == {0: 20, 1: 20, 3: 20}
        assert all(set(shown[3 * turn : 3 * turn + 3].tolist()) == {0, 1, 3} for turn in range(20))
        times = Counter(order.tolist())
        assert {times[n] for n in range(50)} == {0, 1}  # of the large class 20 different ones
        assert {times[n] for n in range(50, 57)} == {2, 3}
        assert {times[n] for n in range(57, 60)} == {6, 7}
    assert len(set(orders[0].tolist()) | set(orders[2].tolist())) > 35  # others of the large class in another epoch


def test_batches_of_a_balanced_run_are_a_function_of_the_step_and_shared_by_ranks() -> None:
    settings = config("training.sampler=balanced", "training.seed=5").training
    index = torch.tensor([n for n in range(48) if CLIPS.label[n] != 2 or n < 12])
    shape = (16, 3)
    whole = list(TrainBatches(CLIPS, index, settings, 4, shape).epoch(1))
    late = list(TrainBatches(CLIPS, index, settings, 4, shape).epoch(1, 2))
    assert [batch.label.tolist() for batch in whole[2]] == [batch.label.tolist() for batch in late[0]]
    shares = [list(TrainBatches(CLIPS, index, settings, 4, shape, rank=rank, ranks=2).epoch(1)) for rank in (0, 1)]
    assert [b.label.tolist() for b in whole[0]] == [b.label.tolist() for share in shares for b in share[0]]
    assert torch.equal(whole[0][1].streams["joint"], shares[1][0][0].streams["joint"])
    every = torch.cat([batch.label for step_of in whole for batch in step_of])
    assert max(Counter(every.tolist()).values()) - min(Counter(every.tolist()).values()) <= 1
