"""The training loop: it learns, resumes bit for bit, refuses a loss that is not finite, and counts
what it did.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from toys import CPU, LABELS, PIXELS

from pt4al.data import views
from pt4al.errors import Refused
from pt4al.rng import device_stream, initialising
from pt4al.training import fit as module
from pt4al.training.execution import Execution
from pt4al.training.fit import Schedule, classification_loss, fit, minibatches, predict
from pt4al.training.nets import Model, Pooled, resnet18

torch.set_num_threads(1)  # networks this small are slower on more


def network(seed: int = 0) -> Model:
    with initialising(seed, 'weights'):
        return Model(resnet18(4), Pooled(32, 2)).to(memory_format=torch.channels_last)


def batches(epoch: int, size: int = 20):
    for index in minibatches(torch.arange(len(LABELS)), size, device_stream(0, 'epoch', epoch)):
        yield (views.normalise(PIXELS[index]),), LABELS[index]


def train(
    model: Model,
    epochs: int = 4,
    lr: float = 0.1,
    made=batches,
    execution: Execution = CPU,
    checkpoint: Path | None = None,
    loss=classification_loss,
    milestones: tuple[int, ...] = (2,),
):
    return fit(
        model,
        made,
        loss,
        Schedule(epochs, lr, milestones),
        execution,
        len(LABELS),
        'toy',
        checkpoint,
    )


def same(one: Model, two: Model) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )


def test_loss_goes_down_and_the_classes_are_learnt():
    model = network()
    history = train(model, epochs=12, lr=0.05, milestones=(8,))
    assert history.loss[-1] < 0.1 * history.loss[0]
    assert (predict(model, PIXELS).logits.argmax(1) == LABELS).float().mean() > 0.95


def test_training_is_plain_sgd_with_momentum_and_weight_decay():
    """Oracle: the update rule written out, for a linear model whose gradient is known in closed
    form.
    """
    model = Model(nn.Identity(), Pooled(3, 2))
    weight, bias = (p.detach().clone().double() for p in model.head.parameters())
    train(model, epochs=3, lr=0.3, milestones=(1,))
    speed = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for epoch, lr in enumerate((0.3, 0.03, 0.03)):
        for (x,), labels in batches(epoch):
            x = x.double().mean((2, 3))
            error = ((x @ weight.T + bias).softmax(1) - nn.functional.one_hot(labels, 2)) / len(
                labels
            )
            for k, (gradient, value) in enumerate(((error.T @ x, weight), (error.sum(0), bias))):
                speed[k] = 0.9 * speed[k] + gradient + 5e-4 * value
                value -= lr * speed[k]
    assert torch.allclose(model.head.linear.weight.double(), weight, atol=1e-5)
    assert torch.allclose(model.head.linear.bias.double(), bias, atol=1e-5)


def test_rates_fall_by_ten_at_each_milestone():
    assert [Schedule(6, 0.2, (2, 5)).rate(e) for e in range(6)] == pytest.approx(
        [0.2, 0.2, 0.02, 0.02, 0.02, 0.002]
    )
    assert train(network(), epochs=3).lr == pytest.approx([0.1, 0.1, 0.01])


def test_the_short_last_batch_is_kept_and_every_image_seen_once():
    parts = list(minibatches(torch.arange(100, 150), 20, device_stream(0, 'x')))
    assert [len(part) for part in parts] == [20, 20, 10]
    assert sorted(torch.cat(parts).tolist()) == list(range(100, 150))
    assert torch.cat(parts).tolist() != list(range(100, 150))
    assert train(network(), epochs=2).steps == [3, 3]


def test_a_rate_that_is_a_tensor_keeps_its_place_and_trains_alike():
    """On a GPU a recorded step reads the rate from its place; here in float64, as numbers are."""
    weights = []
    for lr in (0.3, torch.tensor(0.3, dtype=torch.float64)):
        weight = nn.Parameter(torch.arange(5.0))
        optimiser = torch.optim.SGD([weight], lr, 0.9, weight_decay=5e-4, fused=True)
        place = optimiser.param_groups[0]['lr']
        for rate in (0.3, 0.03):
            module._set_rate(optimiser, rate)
            weight.grad = weight.detach().cos()
            optimiser.step()
        assert float(optimiser.param_groups[0]['lr']) == 0.03
        assert not isinstance(lr, torch.Tensor) or optimiser.param_groups[0]['lr'] is place
        weights.append(weight.detach())
    assert torch.equal(*weights)


def test_the_step_is_made_once(monkeypatch):
    made, step = [], module._step
    monkeypatch.setattr(module, '_step', lambda *parts: made.append(parts) or step(*parts))
    assert train(network(), epochs=4, milestones=(1, 3)).lr == pytest.approx(
        [0.1, 0.01, 0.01, 1e-3]
    )
    assert len(made) == 1


@pytest.mark.parametrize('n, size', [(1000, 128), (5000, 128), (900, 128), (48, 20), (7, 9)])
def test_even_batches_take_as_many_steps_and_differ_by_one_image_at_most(n, size):
    full, even = (
        list(minibatches(torch.arange(n), size, device_stream(0, 'x'), cut))
        for cut in ('full', 'even')
    )
    sizes = [len(part) for part in even]
    assert len(even) == len(full) == -(-n // size) and max(sizes) - min(sizes) <= 1
    assert max(sizes) <= size
    # the same draw, cut elsewhere
    assert torch.equal(torch.cat(even), torch.cat(full))


def test_full_batches_are_what_they_were():
    order = torch.randperm(1000, generator=device_stream(0, 'x'))
    parts = minibatches(torch.arange(1000), 128, device_stream(0, 'x'))
    assert [p.tolist() for p in parts] == [p.tolist() for p in order.split(128)]


@pytest.mark.parametrize('cut', ['full', 'even'])
@pytest.mark.parametrize('n, size', [(257, 128), (129, 128), (41, 20), (3, 2), (5, 2), (9, 4)])
def test_no_batch_holds_one_image(n, size, cut):
    parts = list(minibatches(torch.arange(n), size, device_stream(0, 'x'), cut))
    sizes = [len(part) for part in parts]
    assert min(sizes) > 1 and max(sizes) <= size + 1 and len(parts) in (n // size, -(-n // size))
    assert sorted(torch.cat(parts).tolist()) == list(range(n))
    if cut == 'even':
        assert max(sizes) - min(sizes) <= 1


def test_one_image_and_batches_of_one_are_left_as_they_are():
    for n, size in ((1, 5), (4, 1)):
        for cut in ('full', 'even'):
            parts = list(minibatches(torch.arange(n), size, device_stream(0, 'x'), cut))
            assert [len(part) for part in parts] == [1] * n


def test_watching_changes_nothing_and_keeps_the_first_best_epoch():
    plain, watched, short = network(), network(), network()
    accuracies, seen = iter((0.2, 0.7, 0.7, 0.3)), []

    def watch(model):
        seen.append(predict(model, PIXELS[:4]).logits)  # leaves it in evaluation mode
        return {'deciding': next(accuracies), 'other': 1.0 - len(seen) / 4}

    history = fit(
        watched,
        batches,
        classification_loss,
        Schedule(4, 0.1, (2,)),
        CPU,
        len(LABELS),
        'toy',
        None,
        watch,
    )
    assert train(plain).loss == history.loss and same(plain, watched)
    train(short, epochs=2)
    assert history.watched == {'deciding': [0.2, 0.7, 0.7, 0.3], 'other': [0.75, 0.5, 0.25, 0.0]}
    watched.load_state_dict(history.best)
    assert same(short, watched) and not same(plain, watched)


def test_what_was_watched_outlives_an_interruption(tmp_path):
    accuracies = [0.2, 0.7, 0.1, 0.3]

    def watching(history: list[float]):
        given = iter(history)

        def watch(model):
            value = next(given, None)
            if value is None:
                raise KeyboardInterrupt
            return {'deciding': value}

        return watch

    done = []
    for part in (accuracies[:2], accuracies[2:]):
        try:
            done.append(
                fit(
                    network(),
                    batches,
                    classification_loss,
                    Schedule(4, 0.1, (2,)),
                    CPU,
                    len(LABELS),
                    'toy',
                    tmp_path / 'fit.pt',
                    watching(part),
                )
            )
        except KeyboardInterrupt:
            continue
    short, best = network(), network()
    train(short, epochs=2)
    best.load_state_dict(done[0].best)
    assert done[0].watched == {'deciding': accuracies} and same(short, best)


def test_history_is_the_mean_over_images_not_over_batches():
    model = Model(nn.Identity(), Pooled(3, 2))
    losses = classification_loss(predict(model, PIXELS).logits, LABELS)
    assert train(model, epochs=1, lr=1e-12).loss[0] == pytest.approx(losses.mean().item(), abs=1e-6)


@pytest.mark.parametrize('stop', [1, 2, 3])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, stop):
    whole = network()
    history = train(whole)

    def stops(epoch):
        if epoch == stop:
            raise KeyboardInterrupt
        yield from batches(epoch)

    with pytest.raises(KeyboardInterrupt):
        train(network(), made=stops, checkpoint=tmp_path / 'deep' / 'fit.pt')
    asked = []

    def counts(epoch):
        asked.append(epoch)
        yield from batches(epoch)

    # its weights must all come from the checkpoint
    resumed = network(seed=1)
    assert train(resumed, made=counts, checkpoint=tmp_path / 'deep' / 'fit.pt') == history
    assert same(whole, resumed) and asked == list(range(stop, 4))
    assert [path.name for path in (tmp_path / 'deep').iterdir()] == ['fit.pt']


def test_a_finished_checkpoint_trains_no_more(tmp_path):
    whole, again = network(), network(seed=1)
    history = train(whole, checkpoint=tmp_path / 'fit.pt')
    assert train(again, checkpoint=tmp_path / 'fit.pt', made=None) == history and same(whole, again)


def test_an_interruption_inside_a_save_keeps_the_epoch_before(tmp_path, monkeypatch):
    whole = network()
    history = train(whole)

    def dies(*_):
        raise KeyboardInterrupt

    train(network(), epochs=2, checkpoint=tmp_path / 'fit.pt')
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr('pt4al.files.os.replace', dies)
        train(network(), checkpoint=tmp_path / 'fit.pt')
    resumed = network(seed=1)
    assert train(resumed, checkpoint=tmp_path / 'fit.pt') == history and same(whole, resumed)


def test_a_loss_that_is_not_finite_is_refused_and_the_last_whole_epoch_stays(tmp_path):
    def spoilt(epoch):
        for (x,), labels in batches(epoch):
            yield (x * (float('nan') if epoch == 2 else 1),), labels

    with pytest.raises(
        Refused,
        match=r'^toy: the loss is nan in epoch 3 at learning rate 0\.01; lower the learning',
    ):
        train(network(), made=spoilt, checkpoint=tmp_path / 'fit.pt')
    whole, resumed = network(), network(seed=1)
    assert train(resumed, checkpoint=tmp_path / 'fit.pt') == train(whole) and same(whole, resumed)


def test_a_rate_that_diverges_is_refused(tmp_path):
    with pytest.raises(Refused, match=r'in epoch 1 at learning rate 1e\+20'):
        train(network(), lr=1e20, checkpoint=tmp_path / 'fit.pt')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('precision, dtype', [('fp32', torch.float32), ('bf16', torch.bfloat16)])
def test_precision_governs_the_forward_pass_and_nothing_else(precision, dtype):
    seen = set()

    def loss(outputs, targets):
        seen.add(outputs.dtype)
        return classification_loss(outputs, targets)

    model = network()
    history = train(model, epochs=2, lr=0.01, execution=Execution('cpu', precision, 1), loss=loss)
    assert seen == {dtype}
    assert (
        {p.dtype for p in model.parameters()}
        == {predict(model, PIXELS).logits.dtype}
        == {torch.float32}
    )
    exact = train(network(), epochs=2, lr=0.01)
    # later epochs part: rounding grows with every step
    assert history.loss[0] == pytest.approx(exact.loss[0], rel=0.1)


def test_classification_loss_is_float32_cross_entropy_of_each_image():
    logits, labels = (
        torch.randn(7, 3, generator=device_stream(0, 'x')),
        torch.tensor([0, 1, 2, 0, 1, 2, 0]),
    )
    by_hand = [
        -torch.log(torch.exp(row[k]) / torch.exp(row).sum()).item()
        for row, k in zip(logits, labels)
    ]
    assert classification_loss(logits, labels).tolist() == pytest.approx(by_hand, abs=1e-6)
    assert classification_loss(logits.bfloat16(), labels).dtype == torch.float32


def test_predictions_are_in_data_set_order_and_do_not_depend_on_the_batch():
    model = network()
    train(model, epochs=1)
    before = copy.deepcopy(model)
    whole, parts = predict(model, PIXELS), predict(model, PIXELS, batch=7)
    assert whole.logits.shape == (48, 2) and whole.features.shape == (48, 32)
    assert torch.allclose(whole.logits, parts.logits, atol=1e-5) and same(model, before)
    assert torch.allclose(predict(model, PIXELS[5:6]).logits[0], whole.logits[5], atol=1e-5)
    assert torch.allclose(model.head.linear(whole.features), whole.logits, atol=1e-5)
