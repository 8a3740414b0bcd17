"""Several tasks on one trunk: whose turn it is, whose head answers, how losses of unlike scales
become one score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch import Tensor

from pt4al import testing
from pt4al.data import views
from pt4al.rng import device_stream, initialising
from pt4al.tasks import TASKS, Entry
from pt4al.tasks import task as score
from pt4al.tasks.multi import MultiTask
from pt4al.tasks.rotation import Rotation
from pt4al.training.execution import Execution
from pt4al.training.fit import Schedule, fit, minibatches
from pt4al.training.nets import Model, resnet18

torch.set_num_threads(1)  # networks this small are slower on more

N = 12


@dataclass(frozen=True)
class Dark(Rotation):
    """Turns of darkened images, on another scale: inputs of another kind than rotation's."""

    def make_batch(self, pixels, index, rng):
        (x,), targets = super().make_batch(pixels // 8, index, rng)
        return (x,), targets

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 100 * super().per_sample_loss(outputs, targets)

    def start(self, model: Model, pixels: Tensor, rng: torch.Generator) -> None:
        model.head.linear.bias.data.zero_()

    def encode(self, pixels: Tensor) -> Tensor:
        return views.normalise(pixels // 8)


@pytest.fixture
def task(monkeypatch) -> MultiTask:
    monkeypatch.setitem(TASKS, 'dark', Entry(__name__, 'Dark'))
    return MultiTask(('rotation', 'dark'))


@pytest.fixture(scope='module')
def pixels() -> Tensor:
    coarse = np.random.default_rng(3).integers(256, size=(N, 3, 4, 4), dtype=np.uint8)
    return torch.from_numpy(coarse.repeat(8, 2).repeat(8, 3))


def untrained(task: MultiTask) -> Model:
    with initialising(0, 'weights'):
        return Model(resnet18(4), task.head(32))


def warmed(task: MultiTask, pixels: Tensor) -> Model:
    model = untrained(task).train()
    with torch.no_grad():
        for draw in range(12):
            model(task.make_batch(pixels, torch.arange(N), device_stream(0, 'warm', draw))[0])
    return model.eval()


def rank_mean(table: dict[str, Tensor]) -> list[float]:
    return np.mean([rankdata(table[name]) / N for name in table if name != 'loss'], 0).tolist()


def test_every_batch_belongs_to_one_task_drawn_evenly(task, pixels):
    rng, turns = device_stream(0, 'turns'), []
    for _ in range(400):
        (x, turn), (said, targets) = task.make_batch(pixels[:1], torch.arange(1), rng)
        own = [views.normalise(views.turns(p).flatten(0, 1)) for p in (pixels[:1], pixels[:1] // 8)]
        assert torch.equal(x, own[said]) and int(turn) == said and turn.device.type == 'cpu'
        turns.append(said)
    assert np.mean(turns) == pytest.approx(0.5, abs=0.08)
    changes = np.mean(np.diff(turns) != 0)
    # at random, neither in blocks nor in alternation
    assert changes == pytest.approx(0.5, abs=0.08)


def test_the_head_and_the_loss_are_those_of_the_task_whose_turn_it_is(task, pixels):
    model, seen = warmed(task, pixels), set()
    for draw in range(8):
        inputs, targets = task.make_batch(pixels, torch.arange(N), device_stream(0, 'x', draw))
        turn, own = targets
        by_hand = model.head.heads[turn](model.trunk(inputs[0]))
        assert torch.equal(model(inputs), by_hand)
        alone = (Rotation(), Dark())[turn].per_sample_loss(by_hand, own)
        assert torch.equal(task.per_sample_loss(by_hand, targets), alone)
        seen.add(turn)
    assert seen == {0, 1}


def test_a_step_leaves_the_other_heads_weights_alone(task, pixels):
    model = untrained(task).train()
    inputs, targets = task.make_batch(pixels, torch.arange(N), device_stream(0, 'x'))
    task.per_sample_loss(model(inputs), targets).mean().backward()
    idle = [all(p.grad is None for p in head.parameters()) for head in model.head.heads]
    assert idle == [targets[0] != 0, targets[0] != 1] and all(
        p.grad is not None for p in model.trunk.parameters()
    )


def test_recalibrated_statistics_are_the_mean_over_the_given_batches_and_the_model_keeps_its_own(
    task, pixels
):
    model = warmed(task, pixels)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = [views.normalise(pixels[:4]), views.normalise(pixels[4:10]) * 2]
    single = Model(model.trunk, model.head.heads[0])
    made = score.recalibrate(single.train(), ((x,) for x in batches))
    maps = [model.trunk[0](x) for x in batches]
    mean = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    var = torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0)
    assert torch.allclose(made.trunk[1].running_mean, mean, atol=1e-5) and not made.training
    assert torch.allclose(made.trunk[1].running_var, var, rtol=1e-4)
    assert not any(layer.training for layer in made.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), single.parameters()))
    assert all(
        layer.momentum == 0.1
        for layer in model.modules()
        if isinstance(layer, torch.nn.BatchNorm2d)
    )


def test_recalibration_moves_no_memory_of_a_head(pixels):
    pirl = TASKS['pirl:negatives=64']()
    with initialising(0, 'weights'):
        model = Model(resnet18(4), pirl.head(32))
    model.head.memory = torch.eye(128)[:N]
    inputs = pirl.make_batch(pixels, torch.arange(N), device_stream(0, 'x'))[0]
    assert torch.equal(score.recalibrate(model, [inputs]).head.memory, model.head.memory)


def test_the_score_is_the_mean_rank_over_tasks_each_with_statistics_of_its_own_inputs(task, pixels):
    model = warmed(task, pixels)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    table = task.score(model, pixels, device_stream(0, 'score'))
    assert set(table) == {'loss', 'loss_rotation', 'loss_dark'}
    assert (
        table['loss'].tolist() == pytest.approx(rank_mean(table), abs=1e-6)
        and table['loss'].dtype == torch.float32
    )
    assert table['loss_rotation'].std() > 1e-3 and table['loss_dark'].std() > 1e-1
    for name, kind, head in zip(('rotation', 'dark'), (Rotation(), Dark()), model.head.heads):
        inputs = kind.make_batch(pixels, torch.arange(N), device_stream(0, 'x'))[0]
        part = score.recalibrate(Model(model.trunk, head), [inputs])
        alone = score.readings(part, kind, pixels, device_stream(0, 'x'))['loss']
        assert torch.allclose(table[f'loss_{name}'], alone, rtol=1e-4)
        mixed = score.readings(Model(model.trunk, head), kind, pixels, device_stream(0, 'x'))[
            'loss'
        ]
        assert not torch.allclose(mixed, alone, rtol=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize('names', [('rotation', 'simclr'), ('relative_position', 'colorization')])
def test_a_score_does_not_depend_on_the_batch_and_follows_its_generator(names, pixels):
    made = MultiTask(names)
    model = warmed(made, pixels)
    table, parts, again = (
        made.score(model, pixels, device_stream(0, 'score'), batch) for batch in (500, 5, 500)
    )
    assert set(table) == {'loss', *(f'loss_{name}' for name in names)}
    for name in table:
        assert torch.equal(table[name], again[name])
        # a rank may jump where two losses differ by rounding
        if name != 'loss':
            assert torch.allclose(table[name], parts[name], atol=1e-4)


def test_statistics_come_from_a_limited_number_of_seeded_images(task, pixels, monkeypatch):
    monkeypatch.setattr(score, 'CALIBRATION', 5)
    (inputs,) = score.training_inputs(Rotation(), pixels, device_stream(0, 'x'))
    some = torch.randperm(N, generator=device_stream(0, 'x'))[:5]
    assert torch.equal(inputs[0], views.normalise(views.turns(pixels[some]).flatten(0, 1)))


def test_every_part_is_started_with_its_own_head(task, pixels):
    model = untrained(task)
    task.start(model, pixels, device_stream(0, 'start'))
    assert model.head.heads[0].linear.bias.any() and not model.head.heads[1].linear.bias.any()


def test_whole_images_are_shown_as_the_last_task_shows_them(task, pixels):
    assert torch.equal(task.encode(pixels), views.normalise(pixels // 8))


def test_an_interrupted_run_goes_on_to_identical_weights(task, pixels, tmp_path):
    def trained(epochs: int, name: str) -> Model:
        model = untrained(task)

        def batches(epoch: int):
            rng = device_stream(0, 'epoch', epoch)
            for index in minibatches(torch.arange(N), 4, rng):
                yield task.make_batch(pixels[index], index, rng)

        fit(
            model,
            batches,
            task.per_sample_loss,
            Schedule(epochs, 0.001),
            Execution('cpu', 'fp32', 1),
            N,
            'toy',
            tmp_path / name,
        )
        return model

    whole = trained(3, 'whole.pt').state_dict()
    trained(1, 'parts.pt')
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.values(), trained(3, 'parts.pt').state_dict().values())
    )


def test_two_tasks_keep_the_contract(task):
    testing.check_task(task)
    assert MultiTask() == TASKS['multitask']() and MultiTask().names == (
        'relative_position',
        'colorization',
    )
