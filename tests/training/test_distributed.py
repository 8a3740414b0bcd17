"""Two processes train one network: the gradients of one process, one writer, and what is refused."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys

import numpy as np
import pytest
import torch
from torch import nn
from toys import CPU, LABELS, PIXELS, N, register

import pt4al
from pt4al import stats
from pt4al.data import views
from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.rng import device_stream, initialising
from pt4al.tasks import TASKS
from pt4al.tasks.score import readings
from pt4al.training import distributed, torchrun
from pt4al.training.fit import Schedule, classification_loss, fit, minibatches
from pt4al.training.nets import Model, Pooled, resnet18

pytestmark = [pytest.mark.usefixtures('store_of_toys'), pytest.mark.slow]

torch.set_num_threads(1)
FIELDS = {'dataset': 'toy', 'task': 'rotation', 'lr': 0.003}


def without_batch_norm(size: int) -> tuple[list[np.ndarray], list[float], list[list[int]]]:
    """Weights and losses of a small network after two epochs, and the images that this process saw
    in the last one.
    """
    with initialising(0, 'small'):
        model = Model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), Pooled(4, 2)).to(
            memory_format=torch.channels_last
        )
    seen = []

    def batches(epoch):
        seen.clear()
        for index in minibatches(torch.arange(len(LABELS)), size, device_stream(0, 'epoch', epoch)):
            seen.append(index.tolist())
            yield (views.normalise(PIXELS[index]),), LABELS[index]

    history = fit(model, batches, classification_loss, Schedule(2, 0.1), CPU, len(LABELS), 'toy')
    return [weight.detach().numpy() for weight in model.parameters()], history.loss, seen


def scores(task: str) -> np.ndarray:
    """Readings of an untrained network in batches of 20 images, of which the last holds 12."""
    with initialising(0, 'scores'):
        model = Model(resnet18(2), TASKS[task]().head(16))
    return readings(
        model, TASKS[task](), pt4al.data.load('toy', 'cpu')[0].pixels, device_stream(0, 'x'), 20
    )['loss'].numpy()


def measure() -> dict:
    """What every process, or one alone, finds."""
    register()
    result = pt4al.get(pt4al.spec('pretext', **FIELDS))
    return {
        'scores': {task: scores(task) for task in ('rotation', 'relative_position')},
        'small': {size: without_batch_norm(size) for size in (20, 47)},
        'loss': result.tables['images']['loss'],
        'epochs': result.tables['epochs']['loss'],
        'machine': result.provenance,
        'folder': str(result.folder),
    }


def process(rank: int, port: int, answers) -> None:
    os.environ |= {
        'RANK': str(rank),
        'LOCAL_RANK': str(rank),
        'WORLD_SIZE': '2',
        'LOCAL_WORLD_SIZE': '2',
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': str(port),
    }
    with torchrun.together(['run', 'pretext']):
        answers.put((rank, measure()))
        answers.close()
        answers.join_thread()


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    """(alone, the first of two, the second) and the store of the two."""
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp('two')
    for name, value in {
        'PT4AL_THREADS': '1',
        'PT4AL_DEVICE': 'cpu',
        'PT4AL_PRECISION': 'fp32',
        'OMP_NUM_THREADS': '1',
        'PT4AL_RESULTS': str(folder / 'two'),
    }.items():
        patch.setenv(name, value)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context('spawn')
    answers = context.Queue()
    both = [context.Process(target=process, args=(rank, port, answers)) for rank in (0, 1)]
    for one in both:
        one.start()
    got = dict(answers.get(timeout=120) for _ in both)
    for one in both:
        one.join()
    patch.setenv('PT4AL_RESULTS', str(folder / 'one'))
    patch.setattr(pt4al.data, 'DATASETS', dict(pt4al.data.DATASETS))
    patch.setattr(pt4al.experiments.specs, 'DEFAULTS', dict(pt4al.experiments.specs.DEFAULTS))
    alone = measure()
    patch.undo()
    return alone, got[0], got[1], folder / 'two'


@pytest.mark.parametrize('size', [20, 47])
def test_gradients_are_those_of_one_process(found, size):
    """The last of 20 + 20 + 8 images is shared evenly; of 47 + 1 the first unevenly, and the last
    is too small to share.
    """
    alone, *two = (one['small'][size] for one in found[:3])
    for weights, losses, _seen in two:
        assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(alone[0], weights, strict=True))
        assert losses == pytest.approx(alone[1], abs=1e-5 if size == 20 else 0.02)
    assert two[0][1] == two[1][1] and all(map(np.array_equal, two[0][0], two[1][0]))
    for whole, first, second in zip(alone[2], two[0][2], two[1][2], strict=True):
        assert first + second == (whole if len(whole) > 1 else whole * 2)
        assert abs(len(first) - len(second)) <= 1


def test_the_real_network_finds_the_same_images_hard(found):
    alone, first, second, _ = found
    assert len(first['loss']) == N and (first['loss'] > 0).all()
    assert np.array_equal(first['loss'], second['loss']) and not np.array_equal(
        first['loss'], alone['loss']
    )
    assert stats.spearman(first['loss'], alone['loss']) > 0.8
    assert first['epochs'] == pytest.approx(alone['epochs'], rel=0.1)


@pytest.mark.parametrize('task', ['rotation', 'relative_position'])
def test_scores_are_those_of_one_process_whoever_made_them(found, task):
    """Also where the task draws, as the places of tiles."""
    alone, first, second = (one['scores'][task] for one in found[:3])
    assert alone.std() > 0 and np.array_equal(first, alone) and np.array_equal(second, alone)


def test_only_the_first_process_writes_and_the_result_tells_how_many_there_were(found):
    alone, first, second, folder = found
    assert [path.name for path in folder.iterdir() if not path.name.startswith('.')] == [
        first['folder'].rpartition('/')[2]
    ]
    assert first['folder'].startswith(str(folder)) and not second['folder'].startswith(str(folder))
    assert not os.path.exists(second['folder']) and not list((folder / '.partial').iterdir())
    assert first['machine']['processes'] == 2 and 'processes' not in alone['machine']


@pytest.mark.parametrize(
    'words, message',
    [
        (
            'run main dataset=toy',
            "several processes train a pretext task only, not 'run main': leave torchrun out",
        ),
        ('results', "not 'results'"),
        (
            'run pretext task=simclr dataset=toy',
            'simclr needs its minibatch whole: leave torchrun out',
        ),
        (
            'run pretext dataset=toy task=pirl:negatives=64',
            'pirl:negatives=64 needs its minibatch whole',
        ),
        ('run pretext dataset=toy task=multitask', 'multitask needs its minibatch whole'),
    ],
)
def test_what_several_processes_cannot_do_together_is_refused(words, message):
    with pytest.raises(Refused, match=message):
        torchrun.check(words.split())


def test_one_process_alone_changes_nothing():
    rng, other = device_stream(0, 'x'), device_stream(0, 'x')
    parts = [torch.arange(3), torch.arange(1)]
    assert distributed.shares(parts, rng) is parts and torch.equal(
        rng.get_state(), other.get_state()
    )
    assert (distributed.rank(), distributed.ranks()) == (0, 1)


def test_the_module_runs_as_the_command_does(monkeypatch, capsys, store_of_toys):
    from pt4al import __main__ as module

    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    monkeypatch.setattr(
        sys, 'argv', ['pt4al', 'run', 'pretext', 'dataset=toy', 'width=2', 'epochs=1']
    )
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert not ended.value.code and str(store.roots()[0]) in capsys.readouterr().out
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setattr(sys, 'argv', ['pt4al', 'run', 'main', 'dataset=toy'])
    with pytest.raises(SystemExit, match='^pt4al: several processes train a pretext task only'):
        module.main()
