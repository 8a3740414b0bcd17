"""The published files: the parsers, the pins, and what the files say against numbers known from
elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import released

from pt4al import data, stats
from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.experiments.store import Computed

ROOT = Path(__file__).resolve().parents[2]
# the smallest print in scientific notation
LOSSES = ('0.97', '9.99e-05', '4.4', '0.0002', '1.5e-07', '0.3')


def lines(texts=LOSSES, folder: str = '/data_of/cifar_10/train') -> bytes:
    """A loss file in scrambled order: image i has the i-th loss and class i % 2."""
    rows = [f'{text}_{folder}/{i % 2}/{i}.png' for i, text in enumerate(texts)]
    return ('\n'.join(rows[::-1]) + '\n').encode()


def order_lines(order) -> bytes:
    return ''.join(f'./DATA/train/{i % 2}/{i}.png\n' for i in order).encode()


# --- parsers ---


def test_parse_splits_at_the_first_underscore_and_restores_the_order_of_images():
    losses = released.parse(lines(), 'f', 6)
    assert losses.text.tolist() == list(LOSSES)
    assert losses.value.tolist() == [float(text) for text in LOSSES]
    assert losses.label.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    'content, told',
    [
        (lines()[:-30], 'line 6'),  # cut short
        # an image twice, as an appended file has it
        (lines() + lines(['0.5']), r'7 lines on 6 images'),
        (lines(LOSSES[:5]), '5 lines on 5 images, not one on each of 6'),
        (lines().replace(b'/5.png', b'/6.png'), 'not one on each'),
        (lines().replace(b'0.97_', b'n/a_'), 'line 6.*does not begin with a loss'),
        (lines().replace(b'0.97_', b'nan_'), 'line 6.*does not begin with a loss'),
        (lines().replace(b'0.97_', b'0.97 '), 'line 6'),
        (lines().replace(b'/0/0.png', b'/cat/0.png'), 'line 6.*not folder/class/index.png'),
        (lines().replace(b'0.97', b'\xff\xfe'), 'line 6'),
        (b'', '0 lines on 0 images'),
    ],
)
def test_a_damaged_loss_file_is_refused_with_its_name_and_line(content, told):
    with pytest.raises(Refused, match='the_file.*' + told):
        released.parse(content, 'the_file', 6)


def test_order_file_gives_indices_and_classes_as_they_stand():
    index, label = released.parse_order(order_lines([3, 0, 2, 1]), 'f', 4)
    assert index.tolist() == [3, 0, 2, 1] and label.tolist() == [1, 0, 0, 1]
    for order in ([0, 1, 2, 2], [0, 1, 2], [0, 1, 2, 3, 3]):
        with pytest.raises(Refused, match='not one on each of 4'):
            released.parse_order(order_lines(order), 'f', 4)
    with pytest.raises(Refused, match='f, line 1'):
        released.parse_order(b'0.png', 'f', 1)


# --- obtaining ---


def test_files_are_looked_for_at_hand_first_and_checked(tmp_path, monkeypatch):
    folder, name = tmp_path / 'published-losses', released.RUNS['run A']
    folder.mkdir()
    (folder / name).write_bytes(b'hello')
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    with pytest.raises(Refused, match=f'{name} is not as published: sha256 2cf24dba.*replace it'):
        released.read(name)
    monkeypatch.setitem(released.SHA256, name, hashlib.sha256(b'hello').hexdigest())
    assert released.read(name) == b'hello'
    with pytest.raises(Refused, match='unknown published file'):
        released.read('passwords.txt')


def test_fetching_joins_the_pinned_parts_and_caches_them(tmp_path, monkeypatch):
    import pooch

    asked = []

    def retrieve(url, known_hash, fname, path, downloader):
        asked.append((url, known_hash))
        Path(path).mkdir(parents=True, exist_ok=True)
        target = Path(path) / fname
        target.write_text(f'{url[-5]}\n')
        return str(target)

    monkeypatch.setattr(pooch, 'retrieve', retrieve)
    monkeypatch.setattr(released.files, 'cache', lambda: tmp_path / 'pt4al')
    monkeypatch.delenv('PT4AL_DATA', raising=False)
    joined = b''.join(b'%d\n' % k for k in range(10))
    monkeypatch.setitem(released.SHA256, released.BATCHES, hashlib.sha256(joined).hexdigest())
    assert released.read(released.BATCHES) == joined
    assert asked == [
        (f'{released.OFFICIAL}/loss/batch_{k}.txt', f'sha256:{digest}')
        for k, digest in enumerate(released.BATCH_SHA256)
    ]


@pytest.mark.parametrize(
    'error', [ConnectionError('no route\nto host'), ValueError('SHA256 hash does not match')]
)
def test_what_cannot_be_fetched_is_one_line_that_says_what_to_do(monkeypatch, tmp_path, error):
    import pooch

    def retrieve(*_args, **_more):
        raise error

    monkeypatch.setattr(pooch, 'retrieve', retrieve)
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'results'))
    with pytest.raises(Refused, match='could not be fetched.*set PT4AL_DATA') as refusal:
        released.get('missing')
    assert '\n' not in str(refusal.value) and released.OFFICIAL in str(refusal.value)
    assert not list((tmp_path / 'results').glob('published-*'))


def test_pins_are_whole_and_addresses_name_commits():
    digests = [*released.SHA256.values(), *released.BATCH_SHA256]
    assert len(set(digests)) == 14 and all(len(d) == 64 and int(d, 16) for d in digests)
    urls = [url for parts in released.SOURCES.values() for url, _ in parts]
    assert len(set(urls)) == 13
    commits = (
        '/9a0da4af383fd66be2df0ee8a6feb233009c17d5/',
        '/cb7a1c6a5999c30edb65fcaa0bf578a07eeef530/',
    )
    assert all(any(commit in url for commit in commits) for url in urls)


# --- the text sort, small ---


def test_text_order_puts_scientific_notation_first_and_number_order_does_not():
    losses = released.parse(lines(), 'f', 6)
    assert losses.text[released.text_order(losses)].tolist() == [
        '9.99e-05',
        '4.4',
        '1.5e-07',
        '0.97',
        '0.3',
        '0.0002',
    ]
    intended = losses.text[released.number_order(losses)].tolist()
    assert intended == ['4.4', '0.97', '0.3', '0.0002', '9.99e-05', '1.5e-07']


def test_notation_alone_makes_the_difference():
    value = np.random.default_rng(0).lognormal(-5, 3, 2000).clip(max=9)
    label = np.zeros(2000, 'int16')
    rho = {
        name: stats.spearman(released.printed(value, label, form).text_rank, value)
        for name, form in released.FORMATS.items()
    }
    assert rho['always fixed'] == pytest.approx(1)
    assert rho['as released'] < 0.6 and abs(rho['always scientific']) < 0.1


def test_severity_of_losses_without_tiny_ones_is_none():
    value = np.random.default_rng(0).uniform(1e-3, 0.999, 1000)
    row = released.severity(released.printed(value, np.arange(1000, dtype='int16') % 10))
    assert row['rho'] == pytest.approx(1) and row['tiny_share'] == row['tiny_in_first_batch'] == 0


# --- unit-norm logits ---


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z)
    return e / e.sum()


@pytest.mark.parametrize('classes', [3, 10, 101])
def test_range_of_unit_norm_confidence_is_reached_and_not_passed(classes):
    low, high = released.unit_norm_range(classes)
    # centred: one below, the others level
    odd = np.r_[np.full(classes - 1, 1.0), 1.0 - classes]
    odd /= np.linalg.norm(odd)
    assert softmax(odd).max() == pytest.approx(low) and softmax(-odd).max() == pytest.approx(high)
    control = released.unit_norm_control(0.5, classes=classes)
    assert low <= control['lowest'] < control['highest'] <= high


def test_unit_norm_confidence_orders_differently_the_more_the_length_varies():
    rho = [released.unit_norm_control(spread)['rho'] for spread in (0, 0.5, 1)]
    assert 1 > rho[0] > rho[1] > rho[2] > 0
    # length 1 changes nothing
    assert released.unit_norm_control(0, length=1)['rho'] == pytest.approx(1)
    assert released.unit_norm_control(0.5) == released.unit_norm_control(0.5)


# --- against stored runs ---

IMAGES = 300


@pytest.fixture
def small_release(monkeypatch):
    """Three correlated runs on 300 images in place of the files."""
    rng = np.random.default_rng(0)
    difficulty, label = rng.normal(size=IMAGES), np.arange(IMAGES, dtype='int16') % 10
    runs = {
        name: released.printed(np.exp(3 * (difficulty + 0.5 * rng.normal(size=IMAGES)) - 4), label)
        for name in released.RUNS
    }
    monkeypatch.setattr(released, 'load', lambda: (runs, released.text_order(runs['official'])))
    return difficulty, label


def main_result(
    root: Path, difficulty, label, seed: int, kind: str = 'main', dataset: str = 'cifar10'
) -> store.Result:
    from pt4al.experiments.specs import Main, Pretext

    spec = {'main': Main, 'pretext': Pretext}[kind](dataset=dataset, seed=seed)
    noise = np.random.default_rng(seed + 1).normal(size=(2, len(label)))
    images = {
        'label': label,
        'loss_out': np.exp(difficulty + noise[0]),
        'loss_in': np.exp(noise[1]),
    }
    if kind == 'pretext':
        images = {'label': label, 'loss': np.exp(difficulty + noise[0])}
    computed = Computed({'images': images}, {}, data.CLASSES, {})
    return store.read(
        store.write(root, spec, 'd' * 32, computed, {'commit': 'c0ffee', 'seconds': 1.0})
    )


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path))
    monkeypatch.setattr(store, 'commit', lambda: 'c0ffee')
    monkeypatch.delenv('PT4AL_COMPUTE', raising=False)
    return tmp_path


def test_against_correlates_every_published_run_with_ours(root, small_release):
    ours = [main_result(root, *small_release, seed) for seed in (0, 1)]
    result = released.against(ours)
    table = result.tables['rho']
    assert (
        table['published'].tolist()
        == [*released.RUNS, 'all three', 'official, compared as text'] * 2
    )
    assert table['ours'].tolist() == ['loss_out'] * 5 + ['loss_in'] * 5
    official = released.load()[0]['official'].value
    expected = np.mean([stats.spearman(official, r.tables['images']['loss_out']) for r in ours])
    assert (
        table['rho'][0] == pytest.approx(expected) and table['low'][0] < expected < table['high'][0]
    )
    assert table['rho'][3] == pytest.approx(table['rho'][:3].mean())
    # text sort; pure noise
    assert table['rho'][4] < table['rho'][0] - 0.1 and abs(table['rho'][5]) < 0.2
    assert result.summary['runs'] == 2
    assert result.summary['reliability_loss_out'] == pytest.approx(
        stats.spearman(*(r.tables['images']['loss_out'] for r in ours))
    )
    assert all(len(values) == 10 for values in table.values()), (
        'statistics only, no value of an image'
    )


def test_trajectories_are_held_against_all_published_runs_at_once(root, small_release):
    difficulty, label = small_release
    rng, log = (
        np.random.default_rng(3),
        {'epoch': np.array([1, 2], 'int16'), 'test': np.array([0.3, 0.4])},
    )
    names = ['loss_in_1', 'loss_in_2', 'loss_out_1', 'loss_out_2', 'loss_mean', 'forgotten']
    images = {
        name: (difficulty + rng.normal(0, place, len(label))).astype('float32')
        for place, name in enumerate(names)
    }
    ours = replace(
        main_result(root, difficulty, label, 0),
        kind='trajectory',
        fields={'dataset': 'cifar10'},
        tables={'images': {'label': label} | images, 'log': log},
    )
    result = released.against([ours])
    assert repr(released.published_levels()) == repr(released.from_columns(result.tables['levels']))
    found = {one.level: one for one in released.published_levels()}
    runs = [losses.value for losses in released.load()[0].values()]
    assert found['out-of-fold, epoch 2'].rho.value == pytest.approx(
        np.mean([stats.spearman(x, images['loss_out_2']) for x in runs])
    )
    assert found['out-of-fold, epoch 2'].pretext_reliability == pytest.approx(
        stats.reliability(runs)
    )
    assert found['3 pretext and 1 main runs, mean loss'].ceiling is None


def test_one_more_run_of_ours_is_another_result_and_never_computes_when_told_not_to(
    root, small_release
):
    ours = [main_result(root, *small_release, seed) for seed in (0, 1)]
    one = released.against(ours[:1])
    assert 'reliability_loss_out' not in one.summary and one.spec.results == (ours[0].key,)
    with pytest.raises(Refused, match='no result against'):
        released.against(ours, 'never')
    assert released.against(ours).key != one.key
    assert released.against(ours[:1], 'never').key == one.key
    assert len(store.find('against', dataset='cifar10', of='main')) == 2 and not store.find(
        'published'
    )


def test_against_refuses_what_does_not_fit(root, small_release):
    difficulty, label = small_release
    main = main_result(root, difficulty, label, 0)
    with pytest.raises(Refused, match='no results'):
        released.against([])
    with pytest.raises(Refused, match='those of one kind, on cifar10'):
        released.against([main, main_result(root, difficulty, label, 0, 'pretext')])
    with pytest.raises(Refused, match='cifar10-mini'):
        released.against([main_result(root, difficulty, label, 0, dataset='cifar10-mini')])
    with pytest.raises(Refused, match='same images in the same order'):
        released.against([main_result(root, difficulty, label[::-1], 3)])


def test_script_computes_what_is_missing(root, small_release, monkeypatch, capsys):
    monkeypatch.setattr('pt4al.data.key_digest', lambda name: 'd' * 32)
    for kind in ('main', 'pretext'):
        main_result(root, *small_release, 0, kind)
    monkeypatch.setattr(released, 'get', lambda: store.find('main')[0])
    released.main()
    assert sorted(r.spec.of for r in store.find('against')) == ['main', 'pretext']
    assert capsys.readouterr().out.count('against-cifar10-') == 2


def test_reading_side_does_not_import_torch():
    code = 'import sys, released; sys.exit("torch" in sys.modules)'
    path = os.pathsep.join([str(ROOT), str(ROOT / 'book' / '_code')])
    done = subprocess.run([sys.executable, '-c', code], env=os.environ | {'PYTHONPATH': path})
    assert done.returncode == 0


# --- oracles: what the real files say ---


@pytest.fixture(scope='module')
def real():
    """The real files, where they are at hand; they have no licence and do not travel with the code."""
    places = [os.environ.get('PT4AL_DATA'), str(ROOT.parent / 'shared' / 'data')]
    for place in filter(None, places):
        if all((Path(place) / 'published-losses' / name).is_file() for name in released.SHA256):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv('PT4AL_DATA', place)
                yield released.load()
            return
    pytest.skip('the published loss files are in neither $PT4AL_DATA nor ../shared/data')


@pytest.fixture(scope='module')
def fresh(real):
    return released._compute(released.Published(), Path())


def test_real_files_are_whole_and_aligned(real):
    runs, released = real
    assert sorted(released) == list(range(50_000))
    for losses in runs.values():
        assert np.bincount(losses.label).tolist() == [5000] * 10
        assert (losses.label == runs['official'].label).all()
    if data.available('cifar10'):
        assert (data.arrays('cifar10')[0].labels == runs['official'].label).all()


def test_released_order_is_the_text_sort(fresh):
    s = fresh.summary
    assert (s['released_as_text'], s['released_as_number']) == (50_000, 0)
    assert (s['tiny'], s['tiny_in_first'], s['hardest_in_first']) == (4079, 4079, 921)
    assert s['rho_text_number'] == pytest.approx(0.551, abs=5e-4)


def test_class_counts_and_entropy_of_batches(fresh):
    b = fresh.tables['batches']
    counts = np.stack([b[name] for name in data.CLASSES], axis=1)
    assert counts[0].tolist() == [452, 922, 224, 236, 379, 299, 146, 1023, 472, 847]
    assert counts[10].tolist() == [805, 124, 779, 1016, 472, 567, 680, 192, 237, 128]
    assert counts[5].tolist() == [434, 371, 541, 557, 580, 588, 650, 405, 466, 408]
    assert (counts.sum(1) == 5000).all()
    assert b['entropy'].round(3).tolist() == [
        0.924,
        0.925,
        0.948,
        0.966,
        0.983,
        0.993,
        0.998,
        0.987,
        0.954,
        0.899,
        0.914,
        0.943,
        0.964,
        0.980,
        0.991,
        0.997,
        0.991,
        0.963,
        0.912,
        0.839,
    ]


def test_severity_table(fresh):
    s = fresh.tables['severity']
    assert s['source'].tolist() == [
        *released.RUNS,
        *(f'official x {scale}' for scale in (0.1, 0.01, 0.003, 0.001)),
    ]
    assert s['tiny_share'] == pytest.approx([0.082, 0.091, 0.123, 0.23, 0.45, 0.60, 0.75], abs=5e-3)
    assert s['rho'] == pytest.approx(
        [0.551, 0.503, 0.360, -0.083, -0.552, -0.601, -0.468], abs=5e-4
    )
    assert s['tiny_in_first_batch'] == pytest.approx([0.816, 0.880, 0.958, 1, 1, 1, 1], abs=5e-4)
    assert s['query_entropy'][5:] == pytest.approx([0.988, 0.998], abs=1e-3)


def test_first_queries(fresh):
    q = fresh.tables['queries']
    assert (
        q['query'].tolist() == ['released', 'intended', 'batch 5', 'hardest']
        and (q['images'] == 1000).all()
    )
    assert q['query_tiny_share'][:2].tolist() == [0.825, 0]
    assert q['query_percentile'][:2] == pytest.approx([0.21, 0.95], abs=5e-3)
    assert q['query_entropy'][:2] == pytest.approx([0.914, 0.916], abs=5e-4)


def test_reliability_of_three_runs(fresh):
    p = fresh.tables['pairs']
    assert p['rho'] == pytest.approx([0.7761, 0.7789, 0.7769], abs=5e-5)
    assert p['within'] == pytest.approx([0.705, 0.709, 0.705], abs=1e-3)
    assert p['class_means'] == pytest.approx([0.989] * 3, abs=2e-3)
    assert ((p['low'] < p['rho']) & (p['rho'] < p['high'])).all()
    assert fresh.tables['runs']['eta_squared'][0] == pytest.approx(0.201, abs=5e-4)


def test_control_notation(fresh):
    f = {name: (rho, places) for name, rho, places in zip(*fresh.tables['formats'].values())}
    assert f['always fixed'] == (pytest.approx(1), 50_000)
    assert f['as released'][1] == 0 and abs(f['always scientific'][0]) < 0.02


def test_no_column_holds_a_value_an_image(fresh):
    assert all(
        len(values) < 100 for columns in fresh.tables.values() for values in columns.values()
    )


def test_committed_statistics_are_what_the_files_give(fresh, monkeypatch):
    monkeypatch.setenv('PT4AL_RESULTS', str(ROOT / 'results'))
    if not list((ROOT / 'results').glob('published-*')):
        pytest.skip(
            'no committed statistics of the published files: run  python book/_code/released.py'
        )
    kept = released.get('never')
    assert kept.tables.keys() == fresh.tables.keys()
    for name, columns in fresh.tables.items():
        for column, values in columns.items():
            if values.dtype.kind == 'U':
                assert kept.tables[name][column].tolist() == values.tolist()
            else:
                assert kept.tables[name][column] == pytest.approx(values, abs=1e-9), (name, column)
    assert kept.summary == pytest.approx(fresh.summary, abs=1e-9)
