"""Classifiers that tell more than logits: the loss-prediction module, against slow loops."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from toys import CPU

from pt4al.data import views
from pt4al.rng import device_stream, initialising
from pt4al.training.classifiers import LossPrediction, Plain, learner, ranking_loss
from pt4al.training.execution import Execution
from pt4al.training.fit import Schedule, classification_loss, fit, minibatches, predict

torch.set_num_threads(1)  # networks this small are slower on more
KINDS = [Plain(), LossPrediction()]


def model(kind: Plain, seed: int = 0):
    with initialising(seed, 'weights'):
        return kind.model(4, 3)


def images(n: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Tinted noise of three classes, the last third without any tint: hard."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    pixels = rng.integers(120, size=(n, 3, 16, 16))
    easy = np.flatnonzero(np.arange(n) < 2 * n // 3)
    pixels[easy, labels[easy]] += 120
    return torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels)


def trained(
    kind: Plain, epochs: int = 3, execution: Execution = CPU, lr: float = 0.05, seed: int = 0
):
    pixels, labels = images()
    made = model(kind, seed)

    def batches(epoch: int):
        rng = device_stream(0, 'epoch', epoch)
        for part in minibatches(torch.arange(len(labels)), 7, rng):
            yield (
                (views.normalise(pixels[part]), *kind.extras(made, len(part), epoch / epochs, rng)),
                labels[part],
            )

    return made, fit(made, batches, kind.loss, Schedule(epochs, lr), execution, len(labels), 'toy')


def test_a_strategy_gets_the_learner_that_tells_what_it_needs():
    needs = [set(), {'logits'}, {'logits', 'predicted_loss'}]
    assert [type(learner(one)) for one in needs] == [Plain, Plain, LossPrediction]


def test_all_learners_start_from_equal_weights():
    plain = model(Plain()).state_dict()
    for kind in KINDS:
        state = model(kind).state_dict()
        assert all(torch.equal(value, state[name]) for name, value in plain.items())


@pytest.mark.parametrize('kind', KINDS)
def test_training_draws_from_the_given_generator_only(kind):
    state = torch.get_rng_state()
    (one, history), (two, again) = trained(kind), trained(kind)
    assert torch.equal(torch.get_rng_state(), state) and history == again
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values())
    )


@pytest.mark.parametrize('kind', KINDS)
def test_training_in_bf16_follows_float32(kind):
    fp32, bf16 = (
        trained(kind, 1, Execution('cpu', precision, 1), 1e-3)[1].loss
        for precision in ('fp32', 'bf16')
    )
    assert bf16 == pytest.approx(fp32, rel=0.05) and bf16 != fp32


# --- learning loss ---


@pytest.mark.parametrize('n', [1, 2, 7, 8])
def test_ranking_loss_is_a_loop_over_pairs(n):
    rng = np.random.default_rng(n)
    predicted, losses = (
        torch.from_numpy(rng.normal(size=n) * 2),
        torch.from_numpy(rng.lognormal(size=n)),
    )
    total = 0.0
    for i in range(n // 2):
        j = n - 1 - i
        sign = 1 if losses[i] > losses[j] else -1
        total += max(0.0, float(-sign * (predicted[i] - predicted[j]) + 1))
    assert ranking_loss(predicted, losses).sum().item() == pytest.approx(2 * total)
    if n == 7:
        assert ranking_loss(predicted, losses)[3] == 0


def test_the_loss_module_is_the_papers_and_its_stages_are_those_of_the_trunk():
    made = model(LossPrediction())
    x = views.normalise(images()[0])
    maps = made.trunk(x)
    assert [tuple(m.shape[1:]) for m in maps] == [(4, 16, 16), (8, 8, 8), (16, 4, 4), (32, 2, 2)]
    hidden = [torch.relu(layer(m.mean((2, 3)))) for layer, m in zip(made.head.stages, maps)]
    assert [h.shape for h in hidden] == [(24, 128)] * 4
    by_hand = made.head.join(torch.cat(hidden, 1))[:, 0]
    assert torch.allclose(made.head.predicted_loss(maps), by_hand, atol=1e-6)
    made.eval()
    seen, outputs = predict(made, images()[0]), made((x, torch.ones(())))
    assert torch.allclose(
        seen.predicted_loss, outputs[:, 3], atol=1e-5
    ) and seen.predicted_loss.shape == (24,)
    assert torch.allclose(seen.logits, outputs[:, :3], atol=1e-5)
    assert predict(model(Plain()), images()[0]).predicted_loss is None


def gradients(progress: float) -> dict[str, torch.Tensor]:
    """Of the ranking loss alone, by parameter."""
    kind, made = LossPrediction(), model(LossPrediction())
    pixels, labels = images()
    outputs = made(
        (views.normalise(pixels), *kind.extras(made, len(pixels), progress, device_stream(0, 'x')))
    )
    (kind.loss(outputs, labels) - classification_loss(outputs[:, :3], labels)).mean().backward()
    return {
        name: p.grad
        for name, p in made.named_parameters()
        if p.grad is not None and p.grad.abs().max() > 0
    }


def test_the_trunk_learns_from_the_ranking_for_six_tenths_of_the_epochs():
    early, late = gradients(0.59), gradients(0.6)
    assert any(name.startswith('trunk.') for name in early) and not any(
        name.startswith('trunk.') for name in late
    )
    assert 'head.join.weight' in early and not any('head.linear' in name for name in early)
    for name, grad in late.items():
        assert torch.allclose(grad, early[name], atol=1e-7)


def test_the_targets_of_the_ranking_are_no_way_back_to_the_classifier():
    outputs = torch.randn(6, 4, generator=device_stream(0, 'x'), requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    (both,) = torch.autograd.grad(LossPrediction().loss(outputs, labels).sum(), outputs)
    (plain,) = torch.autograd.grad(classification_loss(outputs[:, :3], labels).sum(), outputs)
    assert torch.allclose(both[:, :3], plain[:, :3]) and both[:, 3].abs().max() > 0


def test_the_predicted_loss_ranks_hard_images_above_easy_ones():
    agreements = []
    for seed in range(5):  # one network this small may learn anything, on one processor or another
        made, _ = trained(LossPrediction(), epochs=25, lr=0.02, seed=seed)
        before = copy.deepcopy(made.state_dict())
        seen = predict(made, images()[0])
        assert all(torch.equal(value, made.state_dict()[name]) for name, value in before.items())
        loss = classification_loss(seen.logits, images()[1])
        agreements.append(spearmanr(seen.predicted_loss, loss).statistic)
    assert np.median(agreements) > 0.5


def test_stages_of_the_trunk_end_where_the_maps_shrink():
    made = model(LossPrediction()).eval()
    x = views.normalise(images()[0])
    after = [x]
    for layer in made.trunk:
        after.append(layer(after[-1]))
    ends = [
        y
        for y, following in zip(after[4:], after[5:] + [None])
        if following is None or following.shape != y.shape
    ]
    assert len(ends) == 4 and all(torch.equal(a, b) for a, b in zip(made.trunk(x), ends))
