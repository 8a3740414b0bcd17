"""Figures against the numbers they were drawn from: every point, interval and pixel."""

from __future__ import annotations

import io

import gallery
import numpy as np
import pytest
from helpers import drawn, pictures
from PIL import Image
from scipy import stats as scipy_stats

from pt4al import figures
from pt4al.errors import Refused
from pt4al.figures import drawing

CLASSES = ('cat', 'dog <b>', '$x$')
BUDGETS = np.array([100, 200, 300])


def losses(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Main loss [n], pretext loss [n] and labels [n] that index CLASSES."""
    rng = np.random.default_rng(seed)
    main = rng.gamma(0.3, 1, n)
    return main, main * rng.gamma(1, 1, n), rng.integers(len(CLASSES), size=n)


def scatter() -> figures.Figure:
    main, pretext, labels = losses()
    return figures.loss_rank_scatter(main, pretext, labels, CLASSES, np.arange(len(main)), 'ranks')


ALL = {
    'loss_rank_scatter': scatter,
    'loss_histogram': lambda: figures.loss_histogram(losses()[0], 'losses', log_x=True),
    'picture_grid': lambda: figures.picture_grid(
        pictures(), list('abcde'), 3, 'five', 'five images'
    ),
    'turns': lambda: figures.turns(pictures(2)),
    'batch_strip': lambda: gallery.batch_strip([pictures(), pictures(3)], ['batch 1', 'batch 2']),
    'learning_curves': lambda: figures.learning_curves(
        BUDGETS,
        {'random': [[0.1, 0.2, 0.4], [0.2, 0.3, 0.4]], 'pt4al $x$ <i>': [0.1, 0.3, 0.5]},
        'curves',
    ),
    'class_balance': lambda: figures.class_balance(
        {'random': [1, 2, 3], 'pt4al': [3, 2.5, 0]}, CLASSES
    ),
    'rank_forest': lambda: figures.rank_forest(
        [('paper', 0.79, np.nan, np.nan), ('here', 0.44, 0.4, 0.5)], 'forest'
    ),
}


@pytest.mark.parametrize('name', ALL)
def test_every_figure_says_what_it_shows_and_is_the_same_twice(name):
    first, again = ALL[name](), ALL[name]()
    assert len(first.alt) > 10 and np.ptp(drawn(first)) > 100
    assert first.still == again.still and first.alt == again.alt
    if first.live is not None:
        assert first.live.to_json() == again.live.to_json()


# --- losses ---


def test_scatter_draws_every_image_once_at_its_ranks():
    main, pretext, labels = losses()
    index = np.random.default_rng(2).permutation(50_000)[: len(main)]
    live = figures.loss_rank_scatter(main, pretext, labels, CLASSES, index, 'ranks').live
    row = {i: k for k, i in enumerate(index)}
    seen = []
    for trace in live.data:
        rows = [row[int(i)] for i in trace.customdata[:, 0]]
        seen += rows
        assert np.array_equal(trace.x, scipy_stats.rankdata(main)[rows])
        assert np.array_equal(trace.y, scipy_stats.rankdata(pretext)[rows])
        np.testing.assert_allclose(trace.customdata[:, 1], main[rows], rtol=1e-6)
        np.testing.assert_allclose(trace.customdata[:, 2], pretext[rows], rtol=1e-6)
        assert {CLASSES[labels[k]] for k in rows} == {
            trace.name.replace('&lt;', '<').replace('&gt;', '>')
        }
    assert sorted(seen) == list(range(len(main)))


def test_scatter_gives_a_class_one_colour_and_one_legend_entry_and_escapes_its_name():
    live = scatter().live
    assert {(trace.name, trace.marker.color) for trace in live.data} == {
        (name, colour)
        for name, colour in zip(('cat', 'dog &lt;b&gt;', '$x$'), figures.CLASS_COLOURS)
    }
    assert [trace.name for trace in live.data if trace.showlegend] == [
        'cat',
        'dog &lt;b&gt;',
        '$x$',
    ]


def test_scatter_says_the_rank_correlation():
    main, pretext, _ = losses()
    assert f'correlation {scipy_stats.spearmanr(main, pretext).statistic:.2f}' in scatter().alt


@pytest.mark.parametrize('log_x', [False, True])
def test_histogram_counts_every_loss_it_can_place(log_x):
    values = np.append(losses()[0], [0, 0])
    figure = figures.loss_histogram(values, 'losses', log_x)
    assert sum(figure.live.data[0].y[:-1]) == len(values) - 2 * log_x
    assert (
        '2 losses not above zero are not drawn'
        in figure.live.layout.title.text.replace('<br>', ' ')
    ) == log_x
    assert ('2 losses not above zero' in figure.alt) == log_x


def test_histogram_of_zeros_has_no_logarithmic_axis():
    with pytest.raises(Refused, match='without log_x'):
        figures.loss_histogram(np.zeros(5), 'losses', log_x=True)


# --- pictures ---


def words(figure: figures.Figure) -> np.ndarray:
    """Opacity of a sheet, which is clear where there is neither image nor word."""
    return np.asarray(Image.open(io.BytesIO(figure.still)))[..., 3]


def tile(sheet: np.ndarray, x: int, y: int) -> np.ndarray:
    """The image [3,32,32] whose enlarged copy begins at (x, y)."""
    enlarged = sheet[y : y + drawing.TILE, x : x + drawing.TILE]
    small = enlarged[1::3, 1::3]
    # nearest neighbour, nothing smoothed
    assert np.array_equal(np.repeat(np.repeat(small, 3, 0), 3, 1), enlarged)
    return small.transpose(2, 0, 1)


def test_grid_shows_each_image_in_reading_order():
    pixels, step = pictures(), drawing.TILE + drawing.GAP
    sheet = drawn(figures.picture_grid(pixels, [''] * 5, 3, '', 'five images'))
    for k, image in enumerate(pixels):
        assert np.array_equal(tile(sheet, step * (k % 3), step * (k // 3)), image)


def test_turns_are_the_four_quarter_turns():
    pixels, step = pictures(1), drawing.TILE + drawing.GAP
    sheet = drawn(figures.turns(pixels))
    assert [tile(sheet, step * k, 0).tolist() for k in range(4)] == [
        np.rot90(pixels[0], k, axes=(1, 2)).tolist() for k in range(4)
    ]


def test_strip_puts_each_batch_on_a_row_behind_its_name():
    pixels, step = pictures(), drawing.TILE + drawing.GAP
    figure = gallery.batch_strip([pixels[:2], pixels[2:]], ['one', 'two'])
    sheet = drawn(figure)
    lead = sheet.shape[1] - 3 * step
    assert words(figure)[:, :lead].max() == 255  # the names
    assert np.array_equal(tile(sheet, lead, 0), pixels[0]) and np.array_equal(
        tile(sheet, lead, step), pixels[2]
    )


def test_caption_is_below_its_image():
    clips = np.stack([np.pad(pictures(1), ((0, 0), (0, 1), (0, 0), (0, 0)))] * 3, 1)  # with a sound
    assert (
        drawn(figures.picture_grid(clips, [''], 1, '', 'one'))
        == drawn(figures.picture_grid(pictures(1), [''], 1, '', 'one'))
    ).all()
    with_caption = words(figures.picture_grid(pictures(1), ['cat\nloss 3'], 1, '', 'one'))
    assert with_caption.shape[0] == drawing.TILE + 2 * drawing.GAP + 2 * drawing.LINE
    assert with_caption[drawing.TILE + drawing.GAP :].max() == 255


# --- comparisons ---


def test_curves_hold_the_mean_the_t_interval_and_every_run():
    runs = np.random.default_rng(3).normal(0.5, 0.1, (4, 3))
    band, points, mean = figures.learning_curves(BUDGETS, {'random': runs}, 'curves').live.data
    low, high = scipy_stats.t.interval(0.95, 3, runs.mean(0), scipy_stats.sem(runs))
    np.testing.assert_allclose(mean.y, runs.mean(0))
    np.testing.assert_allclose(band.y, np.r_[high, low[::-1]])
    assert np.array_equal(points.y, runs.ravel()) and np.array_equal(points.x, np.tile(BUDGETS, 4))


def test_one_run_has_no_band():
    live = figures.learning_curves(BUDGETS, {'random': [[0.1, 0.2, 0.3]]}, 'curves').live
    assert len(live.data) == 2 and not any(trace.fill for trace in live.data)
    assert live.data[1].text[0] == '0.10'


def test_a_known_method_keeps_its_colour_and_no_other_takes_it():
    def colours(*arms):
        live = figures.learning_curves(
            BUDGETS, {arm: [[0.1, 0.2, 0.3]] for arm in arms}, 'curves'
        ).live
        return {
            trace.name: trace.line.color for trace in live.data if trace.mode == 'lines+markers'
        }

    for found in (colours('pt4al', 'mine', 'random'), colours('random', 'pt4al', 'mine', 'ours')):
        assert (
            found['pt4al'] == figures.METHOD_COLOURS['pt4al']
            and found['random'] == figures.METHOD_COLOURS['random']
        )
        assert len(set(found.values())) == len(found)


def test_bars_are_the_counts_and_the_extremes_are_said():
    figure = ALL['class_balance']()
    assert [list(trace.y) for trace in figure.live.data] == [[1, 2, 3], [3, 2.5, 0]]
    assert list(figure.live.data[0].x) == ['cat', 'dog &lt;b&gt;', '$x$']
    assert 'pt4al from 0 ($x$) to 3 (cat)' in figure.alt


def test_forest_draws_intervals_and_a_point_where_there_is_none():
    figure = ALL['rank_forest']()
    trace = figure.live.data[0]
    np.testing.assert_allclose(trace.error_x.array, [0, 0.06])
    np.testing.assert_allclose(trace.error_x.arrayminus, [0, 0.04])
    assert list(trace.text) == ['0.79', '0.44 [0.40, 0.50]']
    assert 'paper 0.79; here 0.44 [0.40, 0.50]' in figure.alt
    ceiled = figures.rank_forest(
        [('a', 0.3, 0.2, 0.4), ('b', 0.5, 0.4, 0.6)], 'forest', ceilings=[None, 0.8]
    )
    assert (list(ceiled.live.data[1].x), list(ceiled.live.data[1].y)) == ([0.8], [1])
    assert 'a 0.30 [0.20, 0.40]; b 0.50 [0.40, 0.60], ceiling 0.80' in ceiled.alt
