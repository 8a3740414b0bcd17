"""What of the explorer is written when a book is built: what can be chosen, its files and numbers."""

from __future__ import annotations

import base64
import json
import re

import explorer
import numpy as np
import on_page
import pytest
import task_pages
from explorer_data import EVIL, dataset
from helpers import LABEL, N, checked, put, put_arm, put_losses, scatter
from scipy.stats import rankdata, spearmanr

from pt4al import figures, report
from pt4al.errors import Refused


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'results'))
    for name in ('PT4AL_STATIC', 'PT4AL_BOOK'):
        monkeypatch.delenv(name, raising=False)


def read(content: dict) -> tuple[np.ndarray, np.ndarray]:
    """What explorer.js makes of a column: how many losses are below each, and the losses."""
    below, codes = (
        np.frombuffer(base64.b64decode(content[part]['bdata']), '<' + content[part]['dtype'])
        for part in ('below', 'codes')
    )
    codes = codes.astype(float)
    steps = np.abs(codes) / 32767 * content['decades'] + content['smallest']
    return below, np.where(codes, np.sign(codes) * 10**steps, 0)


# --- files ---


@pytest.mark.parametrize('n', [300, 70_000])
def test_a_column_keeps_ranks_and_ties_exactly_and_losses_to_three_digits(n):
    losses = np.random.default_rng(0).gamma(0.3, 1, n).round(3)
    losses[[2, 5, 7]] = np.nan, np.inf, 0
    files = dict(explorer.files(dataset(losses, losses)))
    below, read_losses = read(files['m-own'])
    finite = np.isfinite(losses)
    assert (below[finite] == rankdata(losses[finite], 'min') - 1).all()
    assert (below[~finite] == np.iinfo(below.dtype).max).all() and below.dtype.itemsize == (
        2 if n == 300 else 4
    )
    np.testing.assert_allclose(read_losses[finite], losses[finite], rtol=6e-4)


def test_fifty_thousand_losses_are_a_small_file_and_the_page_holds_none(tmp_path):
    losses = np.random.default_rng(0).gamma(0.3, 1, 50_000)
    one = dataset(losses, losses, classes=[EVIL])
    explorer.write(tmp_path, [one])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'm-own.js',
        'p-own.js',
        'set-own.js',
    ]
    assert (tmp_path / 'm-own.js').stat().st_size < 300_000 and len(
        explorer.element(explorer.index([one], {}))
    ) < 5000
    call = re.fullmatch(
        r'pt4alExplorer\("set-own",(.*)\);\n', (tmp_path / 'set-own.js').read_text()
    )
    assert json.loads(call[1])['classes'] == [EVIL]


def test_markup_in_names_stays_text_in_the_page():
    shown = explorer.element(explorer.index([dataset([1, 2, 3], [1, 2, 3], name=EVIL)], {}))
    assert shown.count('</script>') == 1 and EVIL not in shown


# --- what can be chosen ---


def test_only_sets_with_both_sides_are_there_and_runs_say_their_width_and_what_departs_from_defaults():
    put_losses('pretext', seed=1)
    put_losses('pretext', seed=0, epochs=3, width=32)
    put_losses('pretext', seed=0)
    put_losses('pretext', seed=0, task='jigsaw')
    put_losses('pretext', dataset='cifar10-mini')
    put_losses('main')
    [found] = explorer.stored()
    assert found.name == 'cifar10' and len(found.labels) == N
    assert [(c.group, c.run) for c in found.pretext] == [
        ('rotation', 'seed 0, width 32, 3 epochs'),
        ('rotation', 'seed 0, width 16'),
        ('rotation', 'seed 1, width 16'),
        ('jigsaw', 'seed 0, width 16'),
    ]
    assert [(c.group, c.run) for c in found.main] == [
        ('out-of-fold', 'seed 0, width 16'),
        ('in-sample', 'seed 0, width 16'),
    ]
    assert found.pretext[0].more == {'views': {'turns': True}} and found.pretext[3].more == {
        'views': {'tiles': 2}
    }


def test_a_variant_of_a_task_is_seen_with_its_own_grid():
    assert explorer._views('jigsaw:grid=3') == {'tiles': 3}
    assert explorer._views('context_encoder:centre') == {'holes': 1}
    assert explorer._views('colorization:l2') == {'grey': True} and explorer._views('simclr') == {}


def test_a_run_whose_losses_are_all_nan_comes_last_and_alone_makes_no_data_set():
    put(
        {'images': {'label': LABEL, 'loss': np.full(N, np.nan, 'float32')}},
        'pretext',
        dataset='cifar10',
        seed=0,
    )
    put_losses('main')
    assert explorer.stored() == []
    put_losses('pretext', seed=1)
    [found] = explorer.stored()
    assert [c.run for c in found.pretext] == ['seed 1, width 16', 'seed 0, width 16'] and len(
        found.pair[2]
    ) == N


def test_the_logged_epochs_of_a_trajectory_are_main_losses():
    put_losses('pretext')
    put_losses('main')
    put(
        {
            'images': {
                'label': LABEL,
                **{
                    f'loss_{side}_{e}': np.full(N, e, 'float32')
                    for side in ('out', 'in')
                    for e in (1, 10)
                },
            }
        },
        'trajectory',
        dataset='cifar10',
        seed=0,
    )
    [found] = explorer.stored()
    assert [c.group for c in found.main[2:]] == [
        'out-of-fold after epoch 1',
        'out-of-fold after epoch 10',
    ]
    assert (found.main[3].values == 10).all()


def test_picks_are_those_of_the_first_run_of_each_strategy_by_cycle_with_the_run_that_sorted_the_pool():
    put_losses('pretext')
    put_losses('main')
    for strategy, seed in (('pt4al', 1), ('pt4al', 0), ('random', 0)):
        put_arm(strategy, seed, [0.3, 0.4, 0.5])
    put_arm('pt4al', 0, [0.3], until=1)
    [found] = explorer.stored()
    assert [(c.group, c.run) for c in found.picks] == [
        ('pt4al', 'seed 0, width 16'),
        ('pt4al', 'seed 0, width 16, first cycle only'),
        ('random', 'seed 0, width 16'),
    ]
    more = found.picks[0].more
    assert (
        more['sizes'] == [40, 40, 40]
        and more['sorted'] == 'rotation, seed 0'
        and more['batches'] == 10
    )
    assert found.picks[2].more['sorted'] == '' and (found.picks[0].values == np.arange(120)).all()


def test_fields_of_a_spec_are_said_in_words_and_runs_that_read_alike_get_a_number():
    put_losses('pretext', seed=0)
    put_losses('pretext', seed=0, epochs=20, milestones=(10,))
    put_losses('pretext', seed=0, milestones=(7,))
    put_losses('pretext', seed=0, milestones=(8,))
    put_losses('main')
    [found] = explorer.stored()
    assert sorted(c.run for c in found.pretext) == [
        'seed 0, width 16',
        'seed 0, width 16, 20 epochs',
        'seed 0, width 16, other settings',
        'seed 0, width 16, other settings (2)',
    ]


def test_the_page_opens_with_cifar10():
    for name in ('cifar10-mini', 'cifar10'):
        put_losses('pretext', dataset=name)
        put_losses('main', dataset=name)
    assert [d.name for d in explorer.stored()] == ['cifar10', 'cifar10-mini']


# --- numbers ---


def test_numbers_leave_out_what_is_not_finite_and_dash_what_is_not_defined():
    rng = np.random.default_rng(0)
    main, pretext = rng.normal(size=(2, 60))
    labels = np.r_[np.zeros(50, int), np.ones(8, int), 2, 2]
    main[3], pretext[4], main[50:58] = np.nan, np.inf, 1
    rows = explorer.numbers(dataset(main, pretext, labels, ('a', EVIL, 'c')), draws=20)
    kept = np.isfinite(main) & np.isfinite(pretext)
    assert [(row['images of'], row['images']) for row in rows] == [
        ('all images', 58),
        ('a', 48),
        (EVIL, 8),
    ]
    assert rows[0]['rho [95 % interval]'].startswith(
        f'{spearmanr(main[kept], pretext[kept]).statistic:.2f} ['
    )
    assert rows[2]['rho [95 % interval]'] is None and EVIL not in report.table(rows, 'c').data


def test_of_a_thousand_classes_the_table_lists_the_largest():
    rng = np.random.default_rng(0)
    labels = np.r_[np.repeat(np.arange(1000), 3), np.full(5, 700)]
    rows = explorer.numbers(
        dataset(*rng.normal(size=(2, 3005)), labels, [f'class {c}' for c in range(1000)]), draws=2
    )
    assert len(rows) == 21 and ('class 700', 8) in [
        (row['images of'], row['images']) for row in rows
    ]


def test_the_still_says_what_it_shows_and_is_not_live():
    rng = np.random.default_rng(0)
    figure = explorer.still(dataset(*rng.normal(size=(2, 50))))
    assert figure.live is None and '50 images' in figure.alt and figure.still.startswith(b'\x89PNG')


def test_labels_of_a_scatter_plot_meet_no_point_and_no_other_label():
    crowded = [
        ('a_long_name', 0.0, 0.0),
        ('another_long_name', 0.02, 0.01),
        ('third', 0.04, 0.0),
        ('far_far_away', 1.0, 1.0),
    ]
    places = task_pages.label_places(crowded)
    assert len(set(places[:3])) == 3 and places[3] == 'top center'
    shown = task_pages.probe_against_rho(
        [(t, (x, x, x), (y, y, y)) for t, x, y in crowded], 'title', 'probe'
    ).live.data
    assert [trace.textposition for trace in shown] == places


def test_names_of_many_lines_make_the_rows_of_a_forest_higher():
    def row(name):
        return figures.rank_forest([(name, 0.5, 0.4, 0.6)] * 3, 'title').live.layout.height

    assert row('short') == 130 + 3 * 34 and row('many words ' * 8) >= 130 + 3 * 16 * 4


def test_the_names_of_two_marks_stand_back_to_back():
    live = figures.rank_forest(
        [('row', 0.5, 0.4, 0.6)], 'title', marks={'paper': 0.79, 'reproduction': 0.44}
    ).live
    assert {note.text: note.xanchor for note in live.layout.annotations} == {
        'paper': 'left',
        'reproduction': 'right',
    }


# --- page ---


def test_the_page_names_only_files_that_were_written_beside_it(tmp_path, monkeypatch):
    monkeypatch.setenv('PT4AL_STATIC', str(tmp_path))
    monkeypatch.setattr(explorer.data, 'available', lambda name: False)
    put_losses('pretext')
    put_losses('main')
    put_arm('random', 0, [0.3])
    content = json.loads(re.search(r'json">(.*)</script>', explorer.show().data)[1])
    [one] = content['datasets']
    assert one['sprites'] is None and one['images'] == N
    files = {one['file'], *(c['file'] for side in ('pretext', 'main', 'picks') for c in one[side])}
    assert {f'{name}.js' for name in files} == {
        path.name for path in (tmp_path / 'explorer').iterdir()
    }


def test_a_page_without_any_result_says_what_to_run():
    with pytest.raises(Refused, match='pt4al run pretext and pt4al run main make them'):
        explorer.show()


# --- sources of figures, and the checker ---


def test_a_figure_links_to_a_table_of_exactly_what_it_draws(tmp_path, monkeypatch):
    import pandas as pd

    monkeypatch.setenv('PT4AL_BOOK', '1')
    monkeypatch.setenv('PT4AL_STATIC', str(tmp_path))
    shown, figure = [], scatter()
    monkeypatch.setattr(on_page, 'display', lambda what, raw=False: shown.append(what['text/html']))
    report.show(figure, 'Caption', 'ranks')
    [file] = (tmp_path / 'data').iterdir()
    assert f'<a href="{{static}}/data/{file.name}" download>data</a>' in shown[0]
    table = pd.read_csv(file)
    assert len(table) == 200 and set(table['series']) == {'cat', '<script>alert("x")</script>'}
    first = figure.live.data[0]
    assert (table['x'][: len(first.x)] == first.x).all() and (
        table['image'][: len(first.x)] == first.customdata[:, 0]
    ).all()
    np.testing.assert_allclose(
        table['main_loss'][: len(first.x)], first.customdata[:, 1], rtol=1e-6
    )


def test_what_is_drawn_has_the_ends_of_intervals_and_the_names_of_rows():
    forest = figures.rank_forest([('a <b>', 0.5, 0.4, 0.7), ('b', 0.2, np.nan, np.nan)], 'rho')
    forest.live.data[0].x = tuple(forest.live.data[0].x)  # as plotly keeps lists
    table = on_page.drawn(forest.live)
    assert table['label'].tolist() == ['a <b>', 'b'] and table['x'].tolist() == [0.5, 0.2]
    np.testing.assert_allclose(table[['low', 'high']], [[0.4, 0.7], [0.2, 0.2]])
    bars = on_page.drawn(
        figures.class_balance({'random': [1, 2], 'pt4al': [3, 4]}, ['cat', EVIL]).live
    )
    assert bars['series'].tolist() == ['random', 'random', 'pt4al', 'pt4al'] and bars[
        'y'
    ].tolist() == [1, 2, 3, 4]
    curves = on_page.drawn(
        figures.learning_curves([10, 20], {'pt4al': [[0.1, 0.2], [0.3, 0.4]]}, 'curves').live
    )
    assert len(curves) == 4 + 4 + 2 and curves['text'].iloc[-1].startswith('0.30')


@pytest.mark.parametrize(
    'body, problem',
    [
        ('<p><b>x</p>', '<b> is not closed before </p>, at line 1'),
        ('x</div>', '</div> closes nothing, at line 1'),
        ('<div/>', '<div/> does not close <div>'),
        ('<p>x<div>y</div></p>', '</p> closes nothing'),
        (
            '<script class="explorer-index" type="application/json">{"datasets":[{"file":"gone","images":1,"sprites":null,'
            '"pretext":[],"main":[],"picks":[]}]}</script>',
            'explores _static/explorer/gone.js: no such file',
        ),
    ],
)
def test_the_checker_finds_what_is_not_closed_and_what_the_explorer_lacks(
    tmp_path, capsys, body, problem
):
    problems = checked(tmp_path, body, capsys)[:-1]
    assert problems and problems[0].startswith(f'page.html: {problem}')


def test_the_checker_weighs_a_page_with_its_pictures_and_not_with_what_all_pages_share(
    tmp_path, capsys
):
    for name in ('report.js', 'plotly.min.js', 'x.png'):
        (tmp_path / name).write_bytes(b' ' * 600_000)
    assert (
        len(
            checked(
                tmp_path, '<script src="plotly.min.js"></script><img src="x.png" alt="">', capsys
            )
        )
        == 1
    )
    [problem, _] = checked(
        tmp_path, '<script src="report.js"></script><img src="x.png" alt="">', capsys
    )
    assert 'more than 1,000,000' in problem


def test_the_checker_takes_elements_that_end_by_themselves(tmp_path, capsys):
    body = '<ul><li>a<li>b</ul><p>a<p>b<table><tr><td>x<tr><td>y</table><svg><path/></svg><br/>'
    assert len(checked(tmp_path, body, capsys)) == 1
