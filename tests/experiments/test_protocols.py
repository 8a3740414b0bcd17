"""Every published protocol on 72 noise images: what it changes and reports; an interruption changes
nothing.
"""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import numpy as np
import pytest
import released
import torch
from helpers import refused
from protocol_table import DEVIATIONS, REPEATS, SOURCES, differences
from toys import N, parquet, toy

import pt4al
from pt4al import data, query
from pt4al.errors import Refused
from pt4al.experiments import active, protocols, running, specs, store
from pt4al.experiments.protocols import PROTOCOLS, Profile, shortened
from pt4al.experiments.specs import Active, Main, Pretext, spec
from pt4al.query.pt4al import as_text
from pt4al.query.strategies import Pool
from pt4al.rng import device_stream
from pt4al.training.fit import minibatches

torch.set_num_threads(1)  # networks this small are slower on more
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def sizes(store_of_toys, monkeypatch) -> None:
    """Batches of seven images, of which four are labelled; three cycles of two epochs."""
    specs.DEFAULTS.update(
        {('toy', 'active'): {'batch': 8, 'budget': 4}, ('toy', 'pretext'): {'batch': 32}}
    )
    monkeypatch.setitem(protocols.PROFILES, 'toy', Profile(4, 0.01, 0.01, until=3))


def made(protocol: str, arm: str = 'pt4al', **changes) -> Active:
    return protocols.spec(protocol, arm, 'toy', profile='toy', **changes)


def by_cycle(result: store.Result, column: str) -> list[list[float]]:
    epochs = result.tables['epochs']
    return [epochs[column][epochs['cycle'] == c].tolist() for c in result.tables['cycles']['cycle']]


def states(model: torch.nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# --- each protocol, whole and in pieces ---


def interrupting(monkeypatch, before: int, after: int):
    """The run stops when the record of cycle `before` is to be saved, and again when that of
    `after` has been.
    """
    keep, stops = active.save, []

    def stopping(scratch, record, machine):
        if record.number == before and not stops:
            stops.append('before')
            raise KeyboardInterrupt
        keep(scratch, record, machine)
        if record.number == after and len(stops) == 1:
            stops.append('after')
            raise KeyboardInterrupt

    monkeypatch.setattr(active, 'save', stopping)
    return stops


@pytest.mark.parametrize('name', PROTOCOLS)
def test_a_protocol_runs_and_resumed_equals_uninterrupted(name, tmp_path, monkeypatch):
    asked = made(name)
    whole, random = pt4al.get(asked), pt4al.get(made(name, 'random'))
    last = (asked.until or asked.cycles) - 1
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'interrupted'))
    stops = interrupting(monkeypatch, min(1, last), min(1, last))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pt4al.get(asked)
    weights = [path.name for path in (tmp_path / 'interrupted').glob('.partial/*/cycle-*.pt')]
    # of the last whole cycle alone
    assert weights == [f'cycle-{min(1, last):03d}.pt'] * (asked.start == 'warm')
    resumed = pt4al.get(asked)
    assert (
        stops == ['before', 'after']
        and parquet(resumed) == parquet(whole)
        and resumed.summary == whole.summary
    )
    # a longer run goes on from what `until` stops
    assert len(os.listdir(tmp_path / 'interrupted' / '.partial')) == bool(asked.until)
    check_tables(asked, whole)
    check_equal_training(name, whole, random)


def check_tables(asked: Active, result: store.Result) -> None:
    cycles, turns = result.tables['cycles'], asked.until or asked.cycles
    assert cycles['labels'].tolist() == [4 * (k + 1) for k in range(turns)]
    assert len(result.tables['picks']['cycle']) == 4 * turns
    assert by_cycle(result, 'epoch') == [list(range(1, asked.epochs + 1))] * turns
    assert by_cycle(result, 'steps') == [
        [math.ceil(4 * (k + 1) / 8)] * asked.epochs for k in range(turns)
    ]
    assert cycles['steps'].tolist() == [sum(steps) for steps in by_cycle(result, 'steps')]
    seen, pool = by_cycle(result, 'test'), by_cycle(result, 'pool')
    if not asked.watch:
        assert np.isnan(seen).all() and np.isnan(cycles['test_best']).all()
        assert (
            cycles['accuracy'].tolist() == cycles['test'].tolist() == cycles['test_last'].tolist()
        )
    else:
        assert cycles['test_best'].tolist() == [max(row) for row in seen]
        assert cycles['test_last'].tolist() == [row[-1] for row in seen]
        deciding = pool if asked.watch == 'train' else seen
        kept = [row.index(max(row)) if asked.keep == 'best' else -1 for row in deciding]
        assert cycles['accuracy'].tolist() == [row[k] for row, k in zip(deciding, kept)]
        assert cycles['test'].tolist() == [row[k] for row, k in zip(seen, kept)]
    assert np.isnan(pool).all() == (asked.watch != 'train') and ('held_out' in cycles) == (
        asked.held_out > 0
    )
    assert ((cycles['train'] >= 0) & (cycles['train'] <= 1)).all()
    assert result.summary['accuracy'] == pytest.approx(cycles['accuracy'][-1])


def check_equal_training(name: str, *arms: store.Result) -> None:
    """The same rates, epochs and steps in all arms, or else the protocol says that they are not."""
    unequal = set(PROTOCOLS[name].arms['random']) - {'strategy'}
    traces = [
        [arm.tables['epochs'][column].tolist() for column in ('cycle', 'epoch', 'lr', 'steps')]
        for arm in arms
    ]
    assert (traces[0] == traces[1]) == (not unequal) and bool(unequal) == (
        name == 'as-reproduced:code'
    )


# --- the fields, one by one ---


def trained_cycles(monkeypatch) -> list[tuple]:
    """Collects, for each training, what it started from, and the weights that it kept."""
    seen, original = [], running.train_classifier

    def spy(*given, start=None, watch=None):
        begun = None if start is None else states(start)
        model, history = original(*given, start=start, watch=watch)
        seen.append((begun, [value.clone() for value in history.best.values()], states(model)))
        return model, history

    monkeypatch.setattr(running, 'train_classifier', spy)
    return seen


def test_a_warm_start_goes_on_from_the_kept_epoch_and_a_fresh_one_from_nothing(monkeypatch):
    seen = trained_cycles(monkeypatch)
    pt4al.get(made('as-released', 'random', epochs=5))
    assert seen[0][0] is None and all(
        equal(now[0], before[1]) for before, now in zip(seen, seen[1:])
    )
    # so that best and last can be told apart
    assert not all(equal(best, last) for _, best, last in seen)
    seen.clear()
    pt4al.get(made('as-reproduced:code', 'random', epochs=3))  # keeps the last
    assert all(equal(now[0], before[2]) for before, now in zip(seen, seen[1:]))
    seen.clear()
    pt4al.get(made('as-described', 'random'))
    assert [begun for begun, _, _ in seen] == [None] * 3


def test_a_classifier_begins_with_the_weights_that_it_is_given(monkeypatch):
    chosen, train, _ = running.prepared(made('as-released'))
    before, begun = running.architecture(made('as-released')).model(4, 3), []
    monkeypatch.setattr('pt4al.training.fit.fit', lambda model, *_: begun.append(states(model)))
    for start in (before, None):
        running.train_classifier(
            made('as-released'), chosen, train, torch.arange(8), '', None, 'x', start=start
        )
    assert equal(begun[0], states(before)) and not equal(begun[1], states(before))


def test_the_query_asks_the_kept_epoch(monkeypatch):
    seen, asked = trained_cycles(monkeypatch), []

    def spy(model, pixels, batch=1000):
        if len(pixels) == N and model.head.linear.out_features == 3:
            asked.append(states(model))
        return original(model, pixels, batch)

    from pt4al.query import cycle

    original = cycle.predict
    monkeypatch.setattr(cycle, 'predict', spy)
    pt4al.get(made('as-released', epochs=5))
    kept = [best for _, best, _ in seen]
    assert len(asked) == 2 and all(equal(*pair) for pair in zip(asked, kept))
    assert not all(equal(best, last) for _, best, last in seen[:2])


def test_a_continued_schedule_counts_the_epochs_of_all_cycles():
    shared = {
        'dataset': 'toy',
        'strategy': 'random',
        'width': 4,
        'cycles': 3,
        'epochs': 2,
        'milestones': (3,),
        'start': 'warm',
    }
    rates = by_cycle(pt4al.get(spec('active', **shared, schedule='continue')), 'lr')
    assert [rate for row in rates for rate in row] == pytest.approx(
        [0.1, 0.1, 0.1, 0.01, 0.01, 0.01]
    )
    assert by_cycle(pt4al.get(spec('active', **shared)), 'lr') == [[np.float32(0.1)] * 2] * 3


def test_watching_the_test_set_decides_nothing_unless_the_best_epoch_is_kept():
    shared = {
        'dataset': 'toy',
        'strategy': 'entropy',
        'width': 4,
        'cycles': 3,
        'epochs': 4,
        'milestones': (3,),
    }
    plain, watched = (pt4al.get(spec('active', **shared, watch=watch)) for watch in ('', 'test'))
    for table, columns in plain.tables.items():
        for name, values in columns.items():
            assert name in ('test', 'test_best') or np.array_equal(
                values, watched.tables[table][name], equal_nan=True
            )
    assert not np.isnan(watched.tables['cycles']['test_best']).any()


def test_bgr_is_the_data_set_with_red_and_blue_exchanged():
    def exchanged() -> data.Pair:
        return tuple(data.split(part.pixels[:, ::-1], part.labels, part.classes) for part in toy())

    data.DATASETS['exchanged'] = exchanged
    shared = {
        'strategy': 'entropy',
        'width': 4,
        'cycles': 2,
        'budget': 12,
        'epochs': 2,
        'batch': 8,
        'held_out': 30,
    }
    rgb, bgr = (
        pt4al.get(spec('active', dataset='toy', channels=order, **shared))
        for order in ('rgb', 'bgr')
    )
    other = pt4al.get(spec('active', dataset='exchanged', **shared))
    assert parquet(bgr) == parquet(other) != parquet(rgb)


def test_held_out_images_are_a_share_of_every_class_and_never_picked(monkeypatch):
    seen, original = [], active.set_aside

    def spy(s, train):
        seen.append((s.seed, *original(s, train)))
        return seen[-1][1:]

    monkeypatch.setattr(active, 'set_aside', spy)
    results = [
        pt4al.get(made('rigorous', arm, seed=seed))
        for arm, seed in (('pt4al', 0), ('entropy', 0), ('random', 1))
    ]
    labels, aside = toy()[0].labels, []
    for (_, index, pool, held), result in zip(seen, results, strict=True):
        rest = np.setdiff1d(np.arange(N), index.numpy())
        aside.append(rest.tolist())
        assert len(rest) == 20 and sorted(np.bincount(labels[rest])) == [6, 7, 7]
        assert torch.equal(pool.labels, torch.tensor(labels[index]))
        assert torch.equal(held.labels, torch.tensor(labels[rest]))
        assert np.array_equal(pool.pixels, toy()[0].pixels[index]) and np.array_equal(
            held.pixels, toy()[0].pixels[rest]
        )
        picks = result.tables['picks']
        assert not set(picks['index']) & set(rest) and np.array_equal(
            picks['label'], labels[picks['index']]
        )
        assert (result.tables['cycles']['held_out'] * 20 % 1).tolist() == pytest.approx(
            [0] * 3, abs=1e-5
        )
    # the same in all arms, by the seed
    assert aside[0] == aside[1] != aside[2]
    loss = pt4al.get(made('rigorous').pretext).tables['images']['loss']
    # the split is of what may be labelled
    order = seen[0][1].numpy()[np.argsort(-loss[seen[0][1]], kind='stable')]
    for number, batch in enumerate(np.array_split(order, 10)[:3]):
        assert set(results[0].tables['picks']['index'][4 * number :][:4]) <= set(batch)


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'start': 'hot'}, "unknown start 'hot'"),
        ({'schedule': 'continues'}, "unknown schedule.*did you mean 'continue'"),
        ({'watch': 'tests'}, "unknown watch 'tests': did you mean 'test'"),
        ({'keep': 'bset'}, "unknown keep.*did you mean 'best'"),
        ({'channels': 'gbr'}, "unknown channels 'gbr'"),
        ({'held_out': -1}, 'held_out is -1: it must be at least 0'),
        (
            {'keep': 'best'},
            'keep is best: to know the accuracy of every epoch give watch=test or watch=train',
        ),
        ({'schedule': 'continue'}, 'give start=warm'),
        ({'held_out': '2.5'}, 'held_out is .* of type int'),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields, message):
    with pytest.raises(Refused, match=message):
        spec('active', dataset='toy', **fields)


def test_more_held_out_than_can_be_spared_is_refused_before_the_pretext_task_is_trained():
    for held_out in (N - 39, N, 10 * N):
        with pytest.raises(Refused, match='budget of 40 images in 10 cycles is above the pool of'):
            pt4al.get(spec('active', dataset='toy', held_out=held_out))
    assert store.find('pretext') == []


# --- what an interruption may leave ---


def interrupted(monkeypatch, asked: Active) -> Path:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupting(patch, 2, 2)
        pt4al.get(asked)
    return next(store.roots()[0].glob('.partial/*/cycle-001.json')).parent


def test_damaged_weights_of_the_last_cycle_are_refused(monkeypatch):
    scratch = interrupted(monkeypatch, made('as-released', 'random'))
    (scratch / 'cycle-001.pt').write_bytes(b'cut short')
    with pytest.raises(
        Refused, match=r'cycle-001.pt is damaged.*: delete .* to start this run over'
    ):
        pt4al.get(made('as-released', 'random'))


# --- the registry ---


def in_order(dataset, strategy, seed, pretext=None, **fields) -> Active:
    return Active(dataset, strategy=strategy, seed=seed, pretext=pretext, **fields)


def test_the_protocols_at_the_scale_of_the_paper():
    rotation = Pretext('cifar10', width=64)
    shared = {'width': 64, 'epochs': 200, 'milestones': (160,)}
    warm = {'start': 'warm', 'watch': 'test', 'keep': 'best', 'channels': 'bgr'}
    expected = {
        ('as-released', 'pt4al'): in_order(
            'cifar10', 'pt4al_released', 1, rotation, **shared, **warm
        ),
        ('as-released', 'random'): in_order('cifar10', 'random', 1, **shared, **warm),
        ('as-released:cold', 'pt4al'): in_order(
            'cifar10', 'pt4al_released_cold', 1, rotation, until=1, **shared, **warm
        ),
        ('as-released:train', 'pt4al'): in_order(
            'cifar10', 'pt4al_released', 1, rotation, **shared, **warm | {'watch': 'train'}
        ),
        ('as-reproduced', 'pt4al'): in_order(
            'cifar10',
            'pt4al',
            1,
            dataclasses.replace(rotation, epochs=128, milestones=()),
            width=64,
            epochs=100,
            milestones=(),
        ),
        ('as-reproduced:code', 'pt4al'): in_order(
            'cifar10', 'pt4al_reproduced', 1, rotation, **shared, **warm
        ),
        ('as-reproduced:code', 'random'): in_order(
            'cifar10',
            'random',
            1,
            **shared | {'epochs': 100},
            **warm | {'keep': 'last'},
            schedule='continue',
        ),
        ('as-described', 'pt4al'): in_order('cifar10', 'pt4al', 1, rotation, **shared),
        ('rigorous', 'random'): in_order(
            'cifar10',
            'random',
            1,
            **shared | {'epochs': 100, 'milestones': (80,)},
            watch='test',
            held_out=5000,
            minibatches='even',
        ),
    }
    assert {key: protocols.spec(*key, 'cifar10', seed=1) for key in expected} == expected
    assert REPEATS == {'as-reproduced': 3, 'rigorous': 5}
    assert protocols.spec(
        'as-reproduced', dataset='cifar10', kind='pretext', task='colorization_reproduced'
    ) == Pretext(
        'cifar10',
        task='colorization_reproduced',
        width=64,
        epochs=128,
        milestones=(),
        optimiser='adam',
    )
    assert protocols.spec('as-reproduced:code', dataset='cifar10', kind='main', seed=2) == Main(
        'cifar10', 2, 64, epochs=100, milestones=(160,)
    )


def test_the_narrow_profile_keeps_a_schedule_that_fits_the_labels():
    active, main = (
        protocols.spec('rigorous', 'random', 'cifar10', profile='narrow', kind=kind)
        for kind in ('active', 'main')
    )
    assert (active.width, active.epochs, active.milestones) == (16, 100, (80,))
    assert active.minibatches == main.minibatches == 'even'
    assert (active.start, active.keep, main.epochs, main.folds) == ('fresh', 'last', 100, 5)
    # 45,000 images are left, and of 1,000 to 5,000 labels every minibatch has 125
    sizes = {
        len(part)
        for k in range(1, 6)
        for part in minibatches(
            torch.arange(k * active.budget), active.batch, device_stream(0, 'x'), 'even'
        )
    }
    assert sizes == {125}


def test_a_profile_shrinks_a_protocol_and_a_small_data_set_its_budget():
    small = protocols.spec('rigorous', 'pt4al', 'cifar10-mini', profile='cpu', pretext_seed=3)
    assert small == in_order(
        'cifar10-mini',
        'pt4al',
        0,
        Pretext('cifar10-mini', seed=3, width=16, epochs=8, batch=64, milestones=(15, 30, 45)),
        width=16,
        epochs=15,
        milestones=(12,),
        batch=32,
        budget=80,
        held_out=400,
        watch='test',
        minibatches='even',
    )
    assert protocols.spec('as-released:cold', 'random', 'cifar10', profile='smoke').until == 1
    assert (
        protocols.spec(
            'as-released', 'random', 'cifar10', profile='smoke', epochs=7, until='2'
        ).epochs
        == 7
    )
    # the protocol says nothing of this task, so the data set's own length is shortened
    jigsaw = {'task': 'jigsaw', 'width': 8}
    shrunk, usual = (
        protocols.spec('rigorous', 'pt4al', 'cifar10-mini', profile=profile, **jigsaw).pretext
        for profile in ('smoke', 'paper')
    )
    assert usual == spec('pretext', dataset='cifar10-mini', **jigsaw)
    assert shrunk.epochs < usual.epochs and shrunk.batch == usual.batch


@pytest.mark.parametrize('part', [0.005, 0.01, 0.02, 0.1, 0.15, 0.5, 1])
def test_milestones_stay_within_the_epochs_or_beyond_them(part):
    for epochs, milestones in (
        (200, (160,)),
        (100, (160,)),
        (15, (30, 60, 90)),
        (120, (30, 60, 90)),
        (100, ()),
    ):
        new = shortened({'epochs': epochs, 'milestones': milestones}, part)
        assert new['epochs'] == max(1, round(epochs * part)) and len(new['milestones']) == len(
            milestones
        )
        for before, after in zip(milestones, new['milestones']):
            assert after >= 1 and (after < new['epochs']) == (before < epochs and new['epochs'] > 1)
    assert shortened({'epochs': 200, 'milestones': (160,)}, 0.15) == {
        'epochs': 30,
        'milestones': (24,),
    }


def test_every_protocol_is_cited():
    assert SOURCES.keys() == DEVIATIONS.keys() == PROTOCOLS.keys() and all(SOURCES.values())


def test_every_arm_of_every_protocol_is_a_spec():
    for name, protocol in PROTOCOLS.items():
        assert {'pt4al', 'random'} <= protocol.arms.keys() and protocol.summary.endswith('.')
        for arm, fields in protocol.arms.items():
            made_ = protocols.spec(name, arm, 'cifar10-mini', profile='smoke')
            assert made_.strategy == fields['strategy'] and (made_.pretext is None) == (
                not specs.PRETEXT_FIELDS & specs.query_needs(made_.strategy)
            )


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'protocol': 'as-release'}, "unknown protocol 'as-release': did you mean 'as-released'"),
        ({'arm': 'pt4a'}, "unknown arm of as-released 'pt4a': did you mean 'pt4al'"),
        ({'profile': 'gpu'}, "unknown profile 'gpu'"),
        ({'dataset': 'cifar1'}, "unknown dataset 'cifar1'"),
        ({'epoch': 3}, "unknown parameter of active 'epoch'"),
        (
            {'kind': 'main'},
            'as-released says nothing of the main task: take as-reproduced:code or rigorous',
        ),
        ({'kind': 'representation'}, 'unknown kind of experiment of a protocol'),
    ],
)
def test_what_no_protocol_says_is_refused(fields, message):
    with pytest.raises(Refused, match=message):
        protocols.spec(**{'protocol': 'as-released', 'dataset': 'toy'} | fields)


def test_differences_are_a_table_of_what_differs():
    rows = {row['field']: row for row in differences()}
    assert (
        all(row.keys() == {'field', *PROTOCOLS} for row in rows.values())
        and 'lr' not in rows
        and 'cycles' not in rows
    )
    assert rows['start'] | {'field': ''} == {
        'field': '',
        'as-released': 'warm',
        'as-released:cold': 'warm',
        'as-released:train': 'warm',
        'as-reproduced': 'fresh',
        'as-reproduced:code': 'warm',
        'as-described': 'fresh',
        'rigorous': 'fresh',
    }
    assert (
        rows['random: its own']['as-reproduced:code'] == 'epochs 100, schedule continue, keep last'
    )
    assert (
        rows['watch']['as-released:train'] == 'train'
        and rows['rotation: milestones']['as-reproduced'] == 'none'
    )


def test_the_command_lists_protocols_and_runs_one(command, store_of_toys):
    _, printed, _ = command('protocols')
    assert all(name in printed for name in [*PROTOCOLS, *protocols.PROFILES])
    words = [
        'run',
        'active',
        'protocol=as-released:cold',
        'profile=toy',
        'arm=random',
        'dataset=toy',
        'seed=3',
    ]
    status, printed, _ = command(*words)
    assert (
        not status
        and pt4al.get(made('as-released:cold', 'random', seed=3), 'never').folder.name in printed
    )
    refused(
        command('run', 'active', 'protocol=as-relased', 'dataset=toy'),
        "unknown protocol 'as-relased'",
    )


# --- the release itself ---


@pytest.fixture(scope='module')
def real():
    """The published files, where they are at hand; they have no licence and do not travel with the
    code.
    """
    for place in filter(None, [os.environ.get('PT4AL_DATA'), str(ROOT.parent / 'shared' / 'data')]):
        if all((Path(place) / 'published-losses' / name).is_file() for name in released.SHA256):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv('PT4AL_DATA', place)
                return released.load()
    pytest.skip('the published loss files are in neither $PT4AL_DATA nor ../shared/data')


def test_as_released_makes_the_released_batches_of_the_released_losses(real):
    """Losses at a place are compared, not images: of equal ones the release has whichever its file
    system named first.
    """
    runs, released = real
    value, label = runs['official'].value, runs['official'].label
    asked = protocols.spec('as-released', 'pt4al', 'cifar10')
    strategy, nothing = query.QUERIES[asked.strategy], torch.empty(0, dtype=torch.int64)
    pool = Pool(
        nothing,
        torch.arange(50_000),
        0,
        asked.cycles,
        pretext_loss=torch.from_numpy(value),
        logits=torch.zeros(50_000, 10),
    )
    rng = np.random.default_rng(0)
    batches = [
        strategy(dataclasses.replace(pool, cycle=k), 5000, rng).numpy() for k in range(asked.cycles)
    ]
    assert sorted(np.concatenate(batches)) == list(range(50_000))
    # later cycles sort a batch by confidence
    for ours, theirs in zip(batches, released.reshape(10, 5000)):
        assert np.array_equal(np.sort(value[ours]), np.sort(value[theirs]))
    assert np.array_equal(value[batches[0]], value[released[:5000]])
    assert np.bincount(label[batches[0]]).tolist() == [
        452,
        922,
        224,
        236,
        379,
        299,
        146,
        1023,
        472,
        847,
    ]
    first = strategy(pool, asked.budget, rng).numpy()
    assert np.array_equal(value[first], value[released[:5000:5]])
    in_order = torch.cat(as_text(pool.pretext_loss, asked.cycles)).numpy()
    assert (value[in_order] == value[released]).sum() == 50_000
    described = query.QUERIES[protocols.spec('as-described', 'pt4al', 'cifar10').strategy](
        pool, 5000, rng
    ).numpy()
    assert np.bincount(label[described]).tolist() == [
        805,
        124,
        779,
        1016,
        472,
        567,
        680,
        192,
        237,
        128,
    ]
    cold = query.QUERIES[protocols.spec('as-released:cold', 'pt4al', 'cifar10').strategy](
        pool, 1000, rng
    ).numpy()
    assert np.array_equal(value[cold], value[released[25_000:30_000:5]])
    hardest = query.QUERIES[protocols.spec('as-reproduced:code', 'pt4al', 'cifar10').strategy](
        pool, 1000, rng
    ).numpy()
    assert np.array_equal(value[hardest], np.sort(value)[::-1][:1000])
