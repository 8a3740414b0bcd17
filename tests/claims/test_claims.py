"""The claims: rules at their boundaries, numbers of a synthetic store against scipy, no number
without a run.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import BUDGET, LABEL, N, put_arm, put_losses, refused
from scipy import stats as scipy_stats

from pt4al import claims
from pt4al.claims.paper import CLAIMS
from pt4al.errors import Refused
from pt4al.experiments import specs
from pt4al.stats.correlation import Estimate

pytestmark = pytest.mark.usefixtures('root')

ROOT = Path(__file__).resolve().parents[2]
RANK, BALANCE, FIRST, AREA = CLAIMS


def estimate(value: float, low: float = math.nan, high: float = math.nan) -> Estimate:
    return Estimate(value, low, high, 3, '3 seeds', '')


# --- rules ---

PAPER, FORK, NEITHER = (
    'as in the paper',
    'as in the reproduction',
    "neither the paper's value nor the reproduction's",
)


@pytest.mark.parametrize(
    'rho, near',
    [
        (0.7399, NEITHER),
        (0.74, PAPER),
        (0.79, PAPER),
        (0.84, PAPER),
        (0.8401, NEITHER),
        (1, NEITHER),
        (0, NEITHER),
        (0.3899, NEITHER),
        (0.39, FORK),
        (0.44, FORK),
        (0.49, FORK),
        (0.4901, NEITHER),
        (-0.44, NEITHER),
    ],
)
def test_the_rank_verdict_names_whose_value_it_is(rho, near):
    assert RANK.verdict(estimate(rho, rho - 0.001, rho + 0.001)).split('; ')[0] == near


@pytest.mark.parametrize(
    'published, near',
    [
        (('–', '0.42'), 'not the value of the reproduction'),
        (('–', '0.5'), FORK),
        (('0.52', '–'), PAPER),
        (('–', '–'), 'nothing published on these data'),
    ],
)
def test_a_value_is_held_against_those_published_on_the_same_data(published, near):
    assert RANK.verdict(estimate(0.5, 0.49, 0.51), published).split('; ')[0] == near


@pytest.mark.parametrize(
    'high, verdict',
    [
        (0.6999, 'strong correlation rejected'),
        (0.70, 'strong correlation not rejected'),
        (0.7001, 'strong correlation not rejected'),
    ],
)
def test_a_strong_correlation_is_rejected_only_if_the_interval_ends_below(high, verdict):
    assert RANK.verdict(estimate(0.5, 0.4, high)).split('; ')[1] == verdict


def test_the_rank_rule_in_words_has_the_bounds_of_the_code():
    assert re.findall(r'\d\.\d+', RANK.rule) == ['0.05', '0.70']


@pytest.mark.parametrize(
    'low, high, verdict',
    [
        (0.01, 2, 'gain'),
        (0, 2, 'no difference shown'),
        (-1, 1, 'no difference shown'),
        (-2, 0, 'no difference shown'),
        (-2, -0.01, 'harm'),
        (math.nan, math.nan, 'one seed: no verdict'),
    ],
)
def test_gain_and_harm_need_an_interval_beside_zero(low, high, verdict):
    for claim in (FIRST, AREA):
        assert claim.verdict(estimate(0.5, low, high)) == verdict


@pytest.mark.parametrize(
    'value, verdict',
    [
        (0.8999, 'rejected: less balanced than random'),
        (0.9, 'not rejected'),
        (0.95, 'not rejected'),
        (1, 'not rejected'),
    ],
)
def test_balance_is_rejected_only_below_what_random_draws_give(value, verdict):
    assert BALANCE.verdict(estimate(value, 0.9, 0.98)) == verdict


# --- the ledger without and with results ---


def test_an_empty_store_gives_no_number_of_ours():
    for dataset in ('cifar10', 'cifar10-mini'):
        for row in claims.ledger(dataset):
            assert (row['here'], row['n'], row['verdict']) == ('not yet run', '–', 'open')
    assert [claim.estimate('cifar10') for claim in CLAIMS] == [None] * 4
    quotes = {
        row[source]
        for row in claims.ledger('cifar10-mini')
        for source in (claims.PAPER, claims.REPRODUCTION)
    }
    assert quotes == {'–'}  # nobody published numbers on it


def test_half_the_evidence_is_no_evidence():
    put_losses('pretext')
    put_arm('pt4al', 0, [0.3, 0.4])
    assert RANK.estimate('cifar10') is FIRST.estimate('cifar10') is AREA.estimate('cifar10') is None
    put_losses('main', seed=4, width=4)  # another network is another question
    put_losses('main', dataset='cifar10-mini')
    put_arm('random', 0, [0.3, 0.4], epochs=3)
    assert RANK.estimate('cifar10') is FIRST.estimate('cifar10') is AREA.estimate('cifar10') is None


def test_picks_without_the_pool_they_came_from_are_no_evidence():
    put_arm('pt4al', 0, [0.3, 0.4])
    assert (
        BALANCE.estimate('cifar10') is None and claims.ledger('cifar10')[1]['here'] == 'not yet run'
    )


def test_the_command_prints_the_table_of_the_first_page(command):
    put_losses('pretext')
    put_losses('main')
    text, printed, _ = command('claims', 'cifar10')
    assert not text
    rows = claims.ledger('cifar10')
    assert [line for line in printed.splitlines() if not line.startswith(' ')] == [
        str(row['claim']) for row in rows
    ]
    assert re.findall('(?m)^    here +(.*)$', printed) == [str(row['here']) for row in rows]
    assert re.findall('(?m)^    verdict +(.*)$', printed) == [row['verdict'] for row in rows]
    refused(command('claims', 'cifer10'), "did you mean 'cifar10'")


def test_rank_correlation_is_scipys_mean_over_pairs_and_follows_the_seeds():
    pretext, main = [put_losses('pretext')], [put_losses('main')]
    one = RANK.estimate('cifar10')
    assert one.value == pytest.approx(scipy_stats.spearmanr(pretext[0], main[0]).statistic)
    assert one.low < one.value < one.high and (one.n, one.seeds) == (N, '1 pretext x 1 main')
    pretext.append(put_losses('pretext', seed=1))
    main.append(put_losses('main', seed=7))
    two = RANK.estimate('cifar10')
    pairs = [scipy_stats.spearmanr(a, b).statistic for a in pretext for b in main]
    assert (
        two.value == pytest.approx(np.mean(pairs))
        and two.value != one.value
        and two.seeds == '2 pretext x 2 main'
    )
    row = claims.ledger('cifar10')[0]
    assert str(row['here']) == f'{two.value:.2f} [{two.low:.2f}, {two.high:.2f}]' and row[
        'verdict'
    ] == RANK.verdict(two)
    assert row['n'] == f'{N} images, 2 pretext x 2 main'


def test_losses_come_by_seed_and_by_column():
    pretext, main = [put_losses('pretext', seed) for seed in (0, 1)], put_losses('main')
    found = claims.losses('cifar10')
    assert (
        np.array_equal(found[0], pretext)
        and np.array_equal(found[1], [main])
        and found[2].shape == (1, N)
    )
    assert not np.array_equal(found[1], found[2])


def test_gains_are_scipys_paired_t():
    curves = {
        'pt4al': [[0.30, 0.42, 0.50], [0.33, 0.44, 0.55], [0.28, 0.45, 0.51]],
        'random': [[0.29, 0.40, 0.50], [0.30, 0.43, 0.49], [0.29, 0.41, 0.50]],
    }
    for strategy, rows in curves.items():
        for seed, row in enumerate(rows):
            put_arm(strategy, seed, row)
    a, b = (100 * np.array(curves[strategy]) for strategy in ('pt4al', 'random'))
    # labels 40, 80, 120: the trapezoid weighs the middle cycle by a half, the others by a quarter
    for claim, mine, theirs in (
        (FIRST, a[:, 0], b[:, 0]),
        (AREA, a @ [0.25, 0.5, 0.25], b @ [0.25, 0.5, 0.25]),
    ):
        ours, oracle = claim.estimate('cifar10'), scipy_stats.ttest_rel(mine, theirs)
        low, high = oracle.confidence_interval(0.95)
        assert (ours.value, ours.low, ours.high) == pytest.approx(
            (np.mean(mine - theirs), low, high), abs=1e-4
        )
        assert ours.n == 3
    assert claims.ledger('cifar10')[2]['n'] == '3 seeds'


def test_another_seed_changes_the_estimate_and_an_unpaired_one_does_not():
    for strategy, shift in (('pt4al', 0.01), ('random', 0)):
        put_arm(strategy, 0, [0.30 + shift, 0.40])
    one = FIRST.estimate('cifar10')
    assert (one.value, one.n) == (pytest.approx(1, abs=1e-4), 1)
    assert FIRST.verdict(one) == 'one seed: no verdict'
    assert str(claims.ledger('cifar10')[2]['here']) == '1.0 (one run: no interval)'
    put_arm('pt4al', 5, [0.90, 0.95])
    put_arm('random', 6, [0.10, 0.15])
    assert FIRST.estimate('cifar10').value == one.value and AREA.estimate('cifar10').n == 1
    put_arm('random', 5, [0.87, 0.95])
    two = FIRST.estimate('cifar10')
    assert (two.value, two.n) == (pytest.approx(2, abs=1e-4), 2)


def test_arms_are_paired_by_seed_whatever_the_order_they_were_run_in():
    for seed, mine in ((2, 0.5), (0, 0.3), (1, 0.4)):
        put_arm('pt4al', seed, [mine + 0.01, 0.6])
    for seed, mine in ((1, 0.4), (2, 0.5), (0, 0.3)):
        put_arm('random', seed, [mine, 0.6])
    gap = FIRST.estimate('cifar10')
    assert (gap.low, gap.high) == pytest.approx((1, 1), abs=1e-3) and FIRST.verdict(gap) == 'gain'


def test_runs_of_the_first_cycle_alone_serve_the_cold_start_and_no_curve():
    for seed in (0, 1):
        for strategy, accuracy in (('pt4al', 0.30 - 0.01 * seed), ('random', 0.35)):
            put_arm(strategy, seed, [accuracy], until=1)
    assert FIRST.estimate('cifar10').n == 2 and AREA.estimate('cifar10') is None
    assert claims.ledger('cifar10')[3]['verdict'] == 'open'
    for strategy in ('pt4al', 'random'):
        # a whole run takes the place of its first cycle
        put_arm(strategy, 1, [0.40, 0.50])
    assert FIRST.estimate('cifar10').value == pytest.approx((-5 + 0) / 2, abs=1e-4)
    assert AREA.estimate('cifar10').n == 1
    assert [r.spec['until'] for r in claims.arm('cifar10', 'pt4al').values()] == [0, 1]


def test_runs_that_were_not_trained_alike_make_no_pair():
    put_arm('pt4al', 0, [0.5, 0.6], epochs=10)
    put_arm('random', 0, [0.4, 0.5])
    assert AREA.estimate('cifar10') is None
    put_arm('pt4al', 0, [0.5, 0.6])
    assert AREA.estimate('cifar10').value == pytest.approx(10, abs=1e-4)


def test_a_run_of_older_code_had_the_defaults_of_fields_it_does_not_name():
    put_arm('pt4al', 0, [0.5, 0.6])
    put_arm('random', 0, [0.4, 0.5])
    old, new = (claims.arm('cifar10', name)[0] for name in ('random', 'pt4al'))
    del old.spec['held_out']
    assert claims.alike(old, new) and claims.alike(new, old)
    new.spec['held_out'] = 100
    assert not claims.alike(old, new)


def test_shorter_training_serves_where_there_is_no_other():
    short = claims.SETTINGS['cifar10'].ways[-1]
    for strategy, first in (('pt4al', 0.3), ('random', 0.4)):
        put_arm(strategy, 0, [first, 0.5], **short)
        assert claims.arm('cifar10', strategy, complete=True)[0].spec['epochs'] == short['epochs']
    assert AREA.estimate('cifar10').value == pytest.approx(-5, abs=1e-4)
    for strategy in ('pt4al', 'random'):
        put_arm(strategy, 0, [0.35], until=1)
    # the longer training of the first cycle
    assert FIRST.estimate('cifar10').value == pytest.approx(0, abs=1e-4)
    assert AREA.estimate('cifar10').value == pytest.approx(-5, abs=1e-4)


def test_another_width_is_a_setting_of_its_own():
    wide = claims.SETTINGS['cifar10:width=64']
    cold, whole = wide.ways
    for strategy, first in (('pt4al', 0.3), ('random', 0.4)):
        put_arm(strategy, 0, [0.9, 0.9])
        put_arm(strategy, 0, [first, 0.5], **wide.every, **whole)
        put_arm(strategy, 1, [first + 0.1], until=1, **wide.every, **cold)
    assert AREA.estimate('cifar10:width=64').value == pytest.approx(-5, abs=1e-4)
    assert FIRST.estimate('cifar10:width=64').value == pytest.approx(-10, abs=1e-4)
    # the longer training is asked first
    assert list(claims.arm('cifar10:width=64', 'pt4al')) == [1]
    assert AREA.estimate('cifar10').value == pytest.approx(0, abs=1e-4)
    row = claims.ledger('cifar10:width=64')[2]
    assert (
        row['here'].text.startswith('-10.0') and row[claims.PAPER] == FIRST.published['cifar10'][0]
    )


def test_the_short_last_batch_is_told_by_runs_paired_by_seed():
    assert claims.short_last_batch() == ([], None)
    for seed, (small, none) in enumerate([(0.3, 0.4), (0.32, 0.38)]):
        for budget, accuracy in ((776, small), (768, none)):
            put_arm(
                'random',
                seed,
                [accuracy],
                dataset='cifar10-mini',
                budget=budget,
                until=1,
                batch=128,
                epochs=60,
                milestones=(48,),
            )
    found, e = claims.short_last_batch()
    assert len(found) == 4 and e.value == pytest.approx(-8, abs=1e-4) and e.n == 2


@pytest.mark.parametrize('name', claims.SETTINGS)
def test_settings_are_specs_that_can_be_built(name):
    at = claims.setting(name)
    for way in at.ways:
        made = specs.spec('active', dataset=at.dataset, **at.every, **way)
        assert made.cycles == 10 and not made.until and made.milestones[0] < made.epochs


def test_accuracy_is_the_mean_over_classes_of_what_is_recognised():
    put_arm('pt4al', 0, [0.5, 0.6])
    run = claims.arm('cifar10', 'pt4al')[0]
    run.tables['classes']['accuracy'] = np.repeat([0.2, 0.4], 10) + np.tile(
        np.linspace(-0.1, 0.1, 10), 2
    )
    assert (claims.first_accuracy(run), claims.last_accuracy(run)) == (
        pytest.approx(20),
        pytest.approx(40),
    )
    assert claims.area(run) == pytest.approx(30) and claims.plain_area(run) == pytest.approx(55)
    np.testing.assert_allclose(claims.recall(run)[0], 20 + np.linspace(-10, 10, 10))


def test_balance_is_the_entropy_of_first_picks_against_random_draws():
    put_losses('pretext')
    skewed = [0] * 30 + [1] * 10
    put_arm('pt4al', 0, [0.3, 0.4], labels=skewed)
    put_arm('pt4al', 1, [0.3], labels=[0] * 20 + [1] * 20, until=1)
    found = BALANCE.estimate('cifar10')
    oracle = np.mean(
        [scipy_stats.entropy(counts) / math.log(10) for counts in ([30, 10], [20, 20])]
    )
    assert found.value == pytest.approx(oracle) and found.n == 2
    rng = np.random.default_rng(0)
    draws = [
        np.bincount(rng.choice(LABEL, BUDGET, replace=False), minlength=10) for _ in range(4000)
    ]
    interval = np.quantile(scipy_stats.entropy(draws, axis=1) / math.log(10), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(interval, abs=0.006)
    assert BALANCE.verdict(found) == 'rejected: less balanced than random'
    assert (
        str(claims.ledger('cifar10')[1]['here'])
        == f'{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]'
    )


def test_an_even_first_query_is_not_rejected():
    put_losses('pretext')
    put_arm('pt4al', 0, [0.3, 0.4], labels=list(range(10)) * 4)
    found = BALANCE.estimate('cifar10')
    assert found.value == pytest.approx(1) and BALANCE.verdict(found) == 'not rejected'


def test_a_damaged_result_is_refused_and_not_left_out(root):
    put_losses('pretext')
    put_losses('main')
    assert RANK.estimate('cifar10') is not None
    table = next(root.glob('main-*/images.parquet'))
    table.write_bytes(table.read_bytes()[:-40])
    with pytest.raises(Refused, match=f'{table.parent.name} is damaged'):
        claims.ledger('cifar10')


# --- what others published ---


def test_published_values_are_quoted_as_they_were_reported():
    assert RANK.published == {
        'cifar10': ('0.79', '0.44'),
        'imbalanced-cifar10': ('–', '0.42'),
        'caltech101:size=32': ('0.78', '0.17'),
    }
    assert [(row[claims.PAPER], row[claims.REPRODUCTION]) for row in claims.ledger('cifar10')][
        0
    ] == ('0.79', '0.44')


def code_of_pages() -> dict[str, str]:
    """The code cells of notebooks and chapters: prose may cite a number, code may not know it."""
    notebooks = {
        path: '\n'.join(line for line in path.read_text().splitlines() if not line.startswith('#'))
        for path in (ROOT / 'notebooks').glob('*.py')
    }
    chapters = {
        path: '\n'.join(re.findall(r'```{code-cell}.*?```', path.read_text(), re.S))
        for path in (ROOT / 'book').glob('*.md')
    }
    return {path.name: code for path, code in (notebooks | chapters).items() if code}


@pytest.mark.parametrize('value', ['0.79', '0.44', '.79', '93.1'])
def test_no_page_has_a_published_number_in_its_code(value):
    pages = code_of_pages()
    assert {'correlation.py', 'correlation.md', 'index.md'} <= pages.keys()
    assert [
        name
        for name, code in pages.items()
        if re.search(rf'(?<![\d.]){re.escape(value)}(?!\d)', code)
    ] == []


def test_every_claim_names_a_chapter_that_exists():
    assert all((ROOT / 'book' / f'{claim.chapter}.md').is_file() for claim in CLAIMS)


def test_no_line_of_a_chapter_is_lost_as_a_comment():
    for path in sorted((ROOT / 'book').rglob('*.md')):
        prose = re.sub(r'```.*?```', '', path.read_text(), flags=re.S)
        assert not re.findall(r'^%.*', prose, flags=re.M), (
            f'{path.name}: MyST leaves out a line that begins with %'
        )
