"""Figures of representations against the numbers they were drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import task_pages
from helpers import drawn, pictures

from pt4al.figures import Figure, drawing, representation
from pt4al.tasks import TASKS, family

PROBES = {
    'rotation': [[0.3, 0.5, 0.4], [0.2, 0.5, 0.4]],
    'pirl:lambda=0.5 <b>$x$': [0.3, 0.4, 0.6],
    'none': [[0.3, 0.2, 0.1]],
}
POINTS = [
    ('rotation', (0.5, 0.4, 0.6), (0.2, 0.1, 0.25)),
    ('none <i>$', (0.3, np.nan, np.nan), (0.0, np.nan, np.nan)),
]
LOW = np.array([0, 0.5, 1, 1.5])
MOVED = {'grey': [5, 4, 0, 1], 'another <b>image</b>': [0, 2, 6, 2]}


def gallery() -> Figure:
    found = np.stack([pictures(4), pictures(4)[::-1]])
    captions = [['cat\n0.9', 'dog', 'cat', 'cat'], ['dog', 'dog', 'cat', '$x$']]
    return representation.neighbour_gallery(pictures(2), found, ['cat', 'dog'], captions, 'near')


ALL = {
    'probe_lines': lambda: representation.probe_lines(PROBES, 'probes'),
    'label_fractions': lambda: representation.label_fractions([40, 400, 4000], PROBES, 'fractions'),
    'probe_against_rho': lambda: task_pages.probe_against_rho(POINTS, 'points', 'probe'),
    'invariance_histogram': lambda: representation.invariance_histogram(LOW, MOVED, 'moved'),
    'neighbour_gallery': gallery,
}


@pytest.mark.parametrize('name', ALL)
def test_every_figure_says_what_it_shows_and_is_the_same_twice(name):
    first, again = ALL[name](), ALL[name]()
    assert len(first.alt) > 40 and np.ptp(drawn(first)) > 100
    assert first.still == again.still and first.alt == again.alt
    if first.live is not None:
        assert first.live.to_json() == again.live.to_json()
        told = str([[trace.name, trace.text, trace.legendgroup] for trace in first.live.data])
        assert '<b>' not in told and '<i>' not in told  # names are escaped


@pytest.mark.parametrize(
    'make, xs, ticks, kind',
    [
        (representation.probe_lines, [0, 1, 2], ['stem', '1', '2'], 'linear'),
        (
            lambda *given: representation.label_fractions([40, 400, 4000], *given),
            [40, 400, 4000],
            ['40', '400', '4,000'],
            'log',
        ),
    ],
)
def test_lines_pass_through_the_means_and_every_run_is_a_point(make, xs, ticks, kind):
    figure = make(PROBES, 'title')
    lines = [trace for trace in figure.live.data if trace.mode == 'lines+markers']
    for line, runs in zip(lines, PROBES.values(), strict=True):
        assert list(line.x) == xs and np.allclose(line.y, 100 * np.atleast_2d(runs).mean(0))
    points = next(trace for trace in figure.live.data if trace.mode == 'markers')
    assert list(points.x) == xs * 2 and np.allclose(points.y, 100 * np.ravel(PROBES['rotation']))
    axis = figure.live.layout.xaxis
    assert (list(axis.ticktext), axis.type) == (ticks, kind)
    assert f'rotation 25 at {ticks[0]}, 50 at {ticks[1]}, 40 at {ticks[2]} (2 seeds)' in figure.alt
    assert 'none 30 at' in figure.alt and '(1 seed)' in figure.alt


def test_stills_are_drawn_from_the_same_numbers(monkeypatch):
    monkeypatch.setattr(drawing, 'png', lambda figure: figure.axes[0])
    lines = representation.label_fractions([40, 400, 4000], PROBES, 'title').still
    means = [100 * np.atleast_2d(runs).mean(0) for runs in PROBES.values()]
    drawn_lines = [line for line in lines.lines if not line.get_label().startswith('_')]
    assert all(
        np.allclose(line.get_ydata(), mean) for line, mean in zip(drawn_lines, means, strict=True)
    )
    assert lines.get_xscale() == 'log' and [
        text.get_text() for text in lines.get_xticklabels()
    ] == ['40', '400', '4,000']
    steps = representation.invariance_histogram(LOW, MOVED, 'title').still.patches
    assert all(
        np.allclose(step.get_data().values, np.array(counts) / 10)
        for step, counts in zip(steps, MOVED.values(), strict=True)
    )
    dots = task_pages.probe_against_rho(POINTS, 'title', 'probe').still.containers
    assert [dot.lines[0].get_xydata()[0].tolist() for dot in dots] == [[0.5, 0.2], [0.3, 0]]


def test_a_colour_belongs_to_a_task_and_its_variants_whatever_else_is_drawn():
    def colours(names: list[str]) -> dict[str, str]:
        figure = representation.probe_lines({name: [0.1, 0.2] for name in names}, 'title')
        return {
            trace.name: trace.line.color
            for trace in figure.live.data
            if trace.mode == 'lines+markers'
        }

    first, second = (
        colours(['rotation', 'none', 'pirl:lambda=1', 'x']),
        colours(['x', 'pirl', 'rotation']),
    )
    assert first['rotation'] == second['rotation'] and first['pirl:lambda=1'] == second['pirl']
    assert first['x'] == second['x'] and len(set(first.values())) == 4
    assert len(set(representation.TASK_COLOURS.values())) == len(representation.TASK_COLOURS)


def test_every_registered_task_of_ours_has_its_colour():
    ours = {family(name) for name, entry in TASKS.items() if entry.module.startswith('.')}
    assert ours <= set(representation.TASK_COLOURS)


def test_points_carry_their_intervals():
    figure = task_pages.probe_against_rho(POINTS, 'title', 'probe')
    one, none = figure.live.data
    assert (one.x[0], one.error_x.array[0], one.error_x.arrayminus[0]) == pytest.approx(
        (0.5, 0.1, 0.1)
    )
    assert (one.y[0], one.error_y.array[0], one.error_y.arrayminus[0]) == pytest.approx(
        (0.2, 0.05, 0.1)
    )
    assert (
        none.error_x.array[0] == none.error_y.arrayminus[0] == 0
        and none.text[0] == 'none &lt;i&gt;$'
    )
    assert (
        'rotation at 0.50 [0.40, 0.60] and 0.20 [0.10, 0.25]' in figure.alt
        and 'none <i>$ at 0.30 and 0.00' in figure.alt
    )


def test_histograms_are_shares_of_the_images():
    figure = representation.invariance_histogram(LOW, MOVED, 'title')
    for trace, counts in zip(figure.live.data, MOVED.values(), strict=True):
        assert list(trace.x) == [0, 0.5, 1, 1.5, 2] and np.allclose(
            trace.y[:-1], np.array(counts) / 10
        )
        assert trace.line.shape == 'hv'
    assert 'grey mostly near 0.25; another <b>image</b> mostly near 1.25' in figure.alt


def test_the_gallery_shows_a_query_and_then_its_neighbours():
    figure = gallery()
    picture, first, found = drawn(figure), pictures(2), pictures(4)
    assert (
        'cat: cat 0.9, dog, cat, cat; dog: dog, dog, cat, $x$' in figure.alt and figure.live is None
    )
    columns = [picture[:, k * 104 : k * 104 + 96] for k in range(5)]
    for column, image in zip(columns, [first[0], *found]):
        tile = np.repeat(np.repeat(image.transpose(1, 2, 0), 3, 0), 3, 1)
        assert any((column[top : top + 96] == tile).all() for top in range(len(column) - 96))
