"""Small drawings and the first page's table: what they say, on paper as on a screen."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from types import SimpleNamespace

import numpy as np
import panels
import pytest
import summary

RANKS = np.arange(3000.0)
LABELS = np.arange(1, 5) * 100
CURVE = panels.Curve(LABELS, np.array([[1, 40, 50, 99.0], [30, 41, 50, 99.5]]), np.full((2, 4), 97))
DRAWN = {
    'scatter': panels.scatter(
        '<b>', RANKS, RANKS, (0.4, 0.39, 0.41), {'paper': 0.79}, ('across', 'up')
    ),
    'empty': panels.empty_scatter('none', {'reproduction': -0.06}, ('across', 'up'), 'a day'),
    'curves': panels.curves(
        'set', {'rotation': CURVE, 'colorization': None}, [('paper', 400, 93.1)], '2 passes'
    ),
    'dots': panels.dots(
        'Claim',
        'points',
        [
            ('A', (-3.0, -4.0, -2.0), 'worse than random', {'paper': 1.0}),
            ('B', None, 'not tested', {}),
        ],
        (-5, 5),
    ),
    'by_cycle': panels.by_cycle(
        'Course',
        'points',
        {'A': [(-3.0, -4.0, -2.0), (1.0, np.nan, np.nan)], 'B': [], 'C': [(2.0, 1.0, 30.0)]},
        (-10, 10),
        'cycles',
    ),
    'framework': panels.framework(),
}


@pytest.mark.parametrize('name', DRAWN)
def test_every_panel_is_well_formed_and_says_what_it_shows(name):
    panel = DRAWN[name]
    root = ET.fromstring(panel.svg)
    assert root.attrib['aria-label'] == panel.alt and len(panel.alt) > 20
    texts = [node.text for node in root.iter() if node.tag.endswith('text')]
    assert texts and '<b>' not in panel.svg


def test_a_thousand_images_are_drawn_and_rho_stands_beside_what_is_published():
    panel = DRAWN['scatter']
    assert len(panel.rows) == 1000 and 'rho = 0.40 [0.39, 0.41]' in panel.svg
    assert 'paper 0.79' in panel.svg and 'rho 0.40 [0.39, 0.41]; paper 0.79' in panel.alt


def test_what_was_not_run_is_not_drawn():
    assert 'not tested' in DRAWN['empty'].svg and DRAWN['empty'].rows == []
    assert 'colorization: not tested' in DRAWN['curves'].alt
    assert {row['strategy'] for row in DRAWN['curves'].rows} == {'PT4AL'}


def test_cycle_by_cycle_every_value_has_a_mark_and_an_interval_where_there_is_one():
    panel = DRAWN['by_cycle']
    assert 'A -3.0, 1.0; B not tested; C 2.0' in panel.alt
    assert [row['who'] for row in panel.rows] == ['cycle 1', 'cycle 2', 'cycle 1']
    bars = [node.attrib['d'] for node in ET.fromstring(panel.svg) if 'V' in node.get('d', '')]
    assert len(bars) == 2 and bars[1].endswith('V62.0')  # what is too long ends with the plot


def test_curves_of_another_training_are_dashed_and_what_they_fit_is_drawn_only_where_it_matters():
    assert 'accuracy on labelled images, %' not in DRAWN['curves'].svg
    low = panels.Curve(LABELS, CURVE.accuracy, np.full((2, 4), 60))
    panel = panels.curves('set', {'rotation': CURVE}, training='A', others=[('B', {'random': low})])
    assert {(row['strategy'], row['training']) for row in panel.rows} == {
        ('PT4AL', 'A'),
        ('random', 'B'),
    }
    assert panel.svg.count('stroke-dasharray="6 4"') == 3  # the legend and both plots
    assert '>accuracy on labelled images, %<' in panel.svg and 'B: random' in panel.alt


def test_no_band_leaves_nought_to_a_hundred():
    band = next(
        node.attrib['d']
        for node in ET.fromstring(DRAWN['curves'].svg).iter()
        if node.attrib.get('fill-opacity') == '.18'
    )
    heights = [float(point.split()[1]) for point in band.strip('Mz').split('L')]
    assert min(heights) >= 88 and max(heights) <= 88 + 180


CELL = SimpleNamespace(
    verdict='worse than random',
    text='-3.0 [-4.0, -2.0]',
    n='3 against 3 seeds',
    p=(0.013,),
    labelled=0.99,
    note='',
    page='classification',
)
ROW = SimpleNamespace(
    claim='3a', title='<i>', unit='points', paper={}, reproduction={'cifar10': '30 %'},
    cells={'cifar10': CELL},
)  # fmt: skip


def test_a_verdict_is_a_coloured_word_that_leads_to_its_page():
    table = summary.claims_table([ROW], 'caption').data
    chip = '<a href="classification.html"><span class="report-chip report-bad">worse than random'
    assert chip in table and '<i>' not in table
    assert table.count('not tested') == 2 and 'labels fitted to 99' in table
    assert '<td data-head="Reproduction"><small>CIFAR-10: 30\u00a0%</small></td>' in table
    assert 'data-head="Paper"' not in table  # it says nothing of these claims


def test_an_interval_stays_on_one_line_with_true_minus_signs():
    assert '−3.0\u00a0[−4.0,\u00a0−2.0]' in summary.claims_table([ROW], 'caption').data


def test_every_verdict_of_the_rules_has_a_colour():
    from pt4al.claims import verdicts

    words = {verdicts.UNTESTED, verdicts.UNTRAINED, 'better than random', 'worse than random'}
    words |= {'no difference shown', 'equal within 1 point', 'depends on the metric'}
    words |= {f'{w} {who}' for w in ('smaller than', 'larger than', 'compatible with')
              for who in ('the paper', 'the reproduction')}  # fmt: skip
    assert words <= set(panels.TONES)
