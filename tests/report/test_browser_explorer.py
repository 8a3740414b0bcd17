"""The explorer in a browser, opened from disk: pointing, choosing, selecting, replaying, saving,
citing, and bad input.

Skipped where there is no chromium; the accessibility pass needs npm or pip, and a registry.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import explorer
import numpy as np
import on_page
import plotly
import pytest
from explorer import Column
from explorer_data import EVIL, dataset
from helpers import check_book
from scipy.stats import rankdata, spearmanr

from pt4al import data, figures

ROOT = next(p for p in Path(__file__).resolve().parents if (p / 'pyproject.toml').exists())
N = 600
OPEN = 'document.querySelectorAll(".explorer details").forEach(e => { e.open = true; })'
RNG = np.random.default_rng(0)
MAIN = RNG.gamma(0.3, 1, N)
PRETEXT = MAIN * RNG.gamma(1, 1, N) + 1e-6
LABELS = np.arange(N) % 3
X, Y = rankdata(MAIN) / N, rankdata(PRETEXT) / N
HARD = np.argsort(-PRETEXT)  # hardest first
PAGE = """<!DOCTYPE html>
<html lang="en" data-content_root="./"><head><meta charset="utf-8"><title>Explorer</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="_static/explorer.css">
<style>:root {{ color-scheme: light dark }}
html[data-theme="dark"] body {{ background: #121212; color: #ddd }}</style></head>
<body><main><h1>Explorer</h1>{}</main><script defer src="_static/plotly.min.js"></script>
<script defer src="_static/explorer.js"></script></body></html>"""


def sets() -> list[explorer.Dataset]:
    """The embedded images under names of classes that are markup; then all sorts of bad input."""
    picks = Column(
        'picks',
        'pt4al',
        'seed 0',
        np.r_[HARD[:20], HARD[60:80]],
        {
            'sizes': [20, 20],
            'batches': 10,
            'accuracy': 41.5,
            'colour': figures.METHOD_COLOURS['pt4al'],
            'sorted': 'rotation, seed 0',
        },
    )
    whole = dataset(
        MAIN, PRETEXT, LABELS, ('cat', EVIL, 'say "dog", please'), 'cifar10-mini', [picks]
    )
    for task, views in (
        ('jigsaw', {'tiles': 2}),
        ('colorization', {'grey': True}),
        ('context_encoder', {'holes': 2}),
        ('simclr', {}),
    ):
        whole.pretext.append(Column(f'p-{task}', task, 'seed 0', PRETEXT[::-1], {'views': views}))
    for epoch in (10, 1):
        more = {'epoch': epoch}
        whole.main.append(Column(f'm-{epoch}', f'out-of-fold after epoch {epoch}', 's', MAIN, more))
    broken = np.where(np.arange(9) < 4, np.nan, np.arange(9.0))
    thousand = dataset(
        *RNG.normal(size=(2, 2000)),
        np.arange(2000) % 1000,
        [f'class {c}' for c in range(1000)],
        'thousand',
    )
    return [
        whole,
        thousand,
        dataset([1, 2, 3], [3, 1, 2], name='three'),
        dataset([1] * 9, [2] * 9, name='ties'),
        dataset(broken, np.arange(9), name='holes'),
        dataset([np.nan] * 4, [1, 2, 3, 4], name='diverged'),
        dataset([1.0], [1.0], name='one'),
        dataset(*RNG.normal(size=(2, 13)), name='uneven'),
    ]


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('site')
    static = folder / '_static'
    static.mkdir()
    explorer.write(static / 'explorer', sets())
    on_page.write_sprites(
        data.arrays('cifar10-mini')[0].pixels[:N], static / 'sprites' / 'cifar10-mini'
    )
    shutil.copy(Path(plotly.__file__).parent / 'package_data' / 'plotly.min.js', static)
    for name in ('explorer.js', 'explorer.css'):
        shutil.copy(ROOT / 'book' / '_assets' / name, static)
    index = explorer.index(sets(), {'cifar10-mini': 'cifar10-mini'})
    (folder / 'index.html').write_text(PAGE.format(explorer.element(index)))
    return folder


class Reader:
    """Somebody who opens a page and uses it; `errors` and `asked` are what the page did meanwhile."""

    def __init__(self, page):
        self.page, self.errors, self.asked = page, [], []
        page.on('pageerror', lambda error: self.errors.append(str(error)))
        page.on('request', lambda request: self.asked.append(request.url))

    def open(self, site: Path, address: str = '') -> Reader:
        self.page.goto('about:blank')
        self.page.goto((site / 'index.html').as_uri() + address)
        return self.settled()

    def follow(self, address: str) -> Reader:
        """Go to another view of the open page; the number in the address makes it differ from the
        one before.
        """
        self.page.evaluate(
            """address => new Promise(done => {
            window.addEventListener('hashchange', done, { once: true });
            location.hash = `${address}&n=${performance.now()}`; })""",
            address,
        )
        return self.settled()

    def settled(self) -> Reader:
        self.page.wait_for_selector('.explorer[aria-busy="false"]', timeout=60_000)
        return self

    def text(self, part: str) -> str:
        return self.page.inner_text(f'.explorer-{part}')

    def state(self, **wanted: str) -> dict[str, str]:
        """The address once it says what is wanted."""
        for key, value in wanted.items():
            self.page.wait_for_function(
                '([k, v]) => new URLSearchParams(location.hash.slice(1)).get(k) === v',
                arg=[key, value],
            )
        return self.page.evaluate('Object.fromEntries(new URLSearchParams(location.hash.slice(1)))')

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where on the screen the normalised ranks (x, y) are."""
        return tuple(
            self.page.evaluate(
                """([x, y]) => {
            const box = document.querySelector('.explorer-plot'), {xaxis,
                yaxis} = box._fullLayout, at = box.getBoundingClientRect();
            return [at.left + xaxis._offset + xaxis.c2p(x), at.top + yaxis._offset + yaxis.c2p(y)];
        }""",
                [x, y],
            )
        )

    def drag(self, *corners: tuple[float, float]) -> Reader:
        first, *others = [self.at(*corner) for corner in corners]
        self.page.mouse.move(*first)
        self.page.mouse.down()
        for corner in others:
            self.page.mouse.move(*corner, steps=8)
        self.page.evaluate("document.querySelector('.explorer').setAttribute('aria-busy', 'true')")
        self.page.mouse.up()  # plotly tells of a selection some time later
        return self.settled()

    def rows(self, trace: int) -> list[int]:
        """The images that a trace of the plot draws."""
        x, y = (
            self.page.evaluate(f"""(() => {{ const {{x, y}} = document.querySelector('.explorer-plot').data[{trace}];
                                      return [Array.from(x), Array.from(y)]; }})()""")
        )
        return sorted(int(np.argmin(np.hypot(X - a, Y - b))) for a, b in zip(x, y))

    def choose(self, label: str, option: str, place: int = 0) -> Reader:
        self.page.get_by_label(label, exact=True).nth(place).select_option(label=option)
        return self.settled()


@pytest.fixture
def reader(browser):
    page = browser.new_page(viewport={'width': 1200, 'height': 1000})
    page.set_default_timeout(60_000)
    one = Reader(page)
    yield one
    page.close()
    assert one.errors == []


@pytest.fixture(scope='module')
def shared(browser, site):
    page = browser.new_page(viewport={'width': 1200, 'height': 1000})
    page.set_default_timeout(60_000)
    yield Reader(page).open(site)
    page.close()


@pytest.fixture
def opened(shared) -> Reader:
    """The explorer as it opens, on a page that is loaded once for all tests."""
    shared.page.mouse.move(1, 1)
    shared.page.evaluate(OPEN)
    shared.page.get_by_label('select a box').check()
    shared.page.get_by_label('Search a class').fill('')
    yield shared.follow('#v=1')
    assert shared.errors == []


# --- what is there ---


def test_it_opens_from_disk_with_local_files_only_and_tells_the_correlation(reader, site):
    opened = reader.open(site)
    assert (
        opened.text('facts')
        == f'600 images, Spearman rho {spearmanr(MAIN, PRETEXT).statistic:.3f}.'
    )
    assert opened.rows(0) == list(range(N))
    assert [
        url for url in opened.asked if not url.startswith(('file:', 'data:', 'blob:', 'about:'))
    ] == []
    asked = {Path(url).name for url in opened.asked if '/explorer/' in url}
    assert asked == {
        'set-cifar10-mini.js',
        'p-cifar10-mini.js',
        'm-cifar10-mini.js',
    }  # nothing before it is chosen


def lonely() -> int:
    """The image whose neighbours in the plot are farthest away."""
    distance = np.hypot(X[:, None] - X, Y[:, None] - Y) + np.eye(N)
    return int(np.argmax(distance.min(1)))


def point_at(reader: Reader, i: int) -> None:
    for _ in range(60):  # plotly passes over a movement that comes while it draws
        reader.page.mouse.move(*(v + 3 for v in reader.at(X[i], Y[i])))
        reader.page.mouse.move(*reader.at(X[i], Y[i]), steps=5)
        reader.page.wait_for_timeout(100)
        if f', image {i}\n' in reader.page.text_content('.explorer-hover p'):
            return
    pytest.fail(f'pointing at image {i} did not show it')


def test_pointing_at_an_image_shows_it_with_both_losses_and_ranks(opened):
    i = lonely()
    point_at(opened, i)
    assert all(
        f'rank {rankdata(side)[i]:.0f} of 600' in opened.text('hover') for side in (MAIN, PRETEXT)
    )
    losses = [float(loss) for loss in re.findall(r'loss ([\d.e-]+),', opened.text('hover'))]
    np.testing.assert_allclose(losses, [MAIN[i], PRETEXT[i]], rtol=6e-3)
    style = opened.page.evaluate(
        '({...document.querySelector(".explorer-hover .explorer-tile").style})'
    )
    assert style['backgroundImage'].endswith('_static/sprites/cifar10-mini/0.jpg")')
    assert style['backgroundPosition'] == f'{-(i % 40) * 96}px {-(i // 40) * 96}px'


def test_a_click_keeps_an_image_and_shows_it_turned_as_rotation_sees_it(opened):
    i = lonely()
    point_at(opened, i)
    opened.page.mouse.click(*opened.at(X[i], Y[i]))
    opened.page.wait_for_selector('.explorer-pinned .explorer-ways')
    turns = opened.page.eval_on_selector_all(
        '.explorer-ways .explorer-tile', 'all => all.map(e => e.style.transform)'
    )
    assert turns == ['rotate(0deg)', 'rotate(-90deg)', 'rotate(-180deg)', 'rotate(-270deg)']
    assert f', image {i}' in opened.text('pinned')
    assert opened.state(pin=str(i))['v'] == '1' and opened.rows(1) == [i]
    assert 'turned by' in opened.text('pinned')


@pytest.mark.parametrize(
    'task, tiles, text',
    [
        ('jigsaw', 4, 'its 4 tiles'),
        ('colorization', 2, 'grey'),
        ('context_encoder', 4, 'hidden'),
        ('simclr', 0, 'not shown here'),
    ],
)
def test_a_kept_image_is_shown_as_the_chosen_task_sees_it(opened, task, tiles, text):
    opened.page.get_by_label('Number of an image').fill('41')
    opened.page.keyboard.press('Enter')
    opened.choose('Pretext task', task)
    assert (
        text in opened.text('pinned')
        and opened.page.locator('.explorer-ways .explorer-tile').count() == tiles
    )
    # image 41: column 1, row 1; its tiles begin an eighth of a cell in
    if task == 'jigsaw':
        places = opened.page.eval_on_selector_all(
            '.explorer-ways .explorer-tile', 'all => all.map(e => e.style.backgroundPosition)'
        )
        assert places[3] == f'{-(1 + 1.125 / 2) * 128:g}px {-(1 + 1.125 / 2) * 128:g}px'


def test_the_density_counts_every_image(opened):
    opened.page.get_by_label('density').check()
    opened.settled()
    z = opened.page.evaluate(
        'document.querySelector(".explorer-plot").data[0].z.flat().reduce((a, b) => a + b, 0)'
    )
    assert z == N and opened.state(view='density')


# --- classes ---


def test_unticking_a_class_takes_its_images_away_and_tells_the_correlation_of_the_rest(opened):
    opened.page.get_by_role('checkbox', name='cat').uncheck()
    opened.settled()
    rest = LABELS != 0
    assert opened.rows(0) == np.flatnonzero(rest).tolist() and opened.state(off='0')
    rho = spearmanr(MAIN[rest], PRETEXT[rest]).statistic
    assert f'Classes shown: 400 images, rho {rho:.3f}.' in opened.text('facts')


def test_a_thousand_classes_are_searched(opened):
    opened.choose('Data set', 'thousand (2,000)')
    assert opened.page.locator('.explorer-classes li').count() == 1000
    opened.page.get_by_label('Search a class').fill('CLASS 99')
    assert opened.page.locator('.explorer-classes li:visible').count() == 11
    opened.page.get_by_role('button', name='Show only matches').click()
    opened.settled()
    assert 'Classes shown: 22 images' in opened.text('facts')
    opened.page.get_by_role('button', name='None').click()
    opened.settled()
    assert 'Classes shown: 0 images, rho not defined.' in opened.text('facts')
    assert not opened.page.locator('.explorer-note').is_visible()
    opened.page.get_by_role('button', name='All').click()
    opened.settled()
    assert 'Classes shown' not in opened.text('facts')


def test_names_that_are_markup_stay_text(opened):
    assert EVIL in opened.text('classes') and opened.page.locator('.explorer img').count() == 0
    opened.page.get_by_label('Number of an image').fill('1')
    opened.page.keyboard.press('Enter')
    opened.page.wait_for_selector('.explorer-pinned .explorer-tile')
    opened.settled().drag((0.01, 0.01), (0.9, 0.9))
    assert EVIL in opened.text('pinned') and EVIL in opened.text('table')
    assert opened.page.locator('.explorer img').count() == 0


# --- selections ---


def inside(x0, x1, y0, y1) -> np.ndarray:
    x, y = X.astype(np.float32), Y.astype(np.float32)
    return np.flatnonzero((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1))


def selected(reader: Reader) -> list[float]:
    """What the address says is selected, once it does."""
    reader.page.wait_for_function('location.hash.includes("sel=")')
    reader.page.wait_for_timeout(400)
    return [float(value) for value in reader.state()['sel'].partition(':')[2].split(',')]


def test_a_box_selects_shows_and_saves_what_lies_in_it(opened, tmp_path):
    opened.drag((0.2, 0.3), (0.8, 0.9))
    x0, x1, y0, y1 = selected(opened)
    np.testing.assert_allclose([x0, x1, y0, y1], [0.2, 0.8, 0.3, 0.9], atol=0.01)
    some = inside(x0, x1, y0, y1)
    told = re.fullmatch(
        r'Selected: (\d+) images, Spearman rho (\S+) among them\.', opened.text('head')
    )
    # the address has four digits, the screen had more
    assert abs(int(told[1]) - len(some)) <= 2
    assert abs(float(told[2]) - spearmanr(MAIN[some], PRETEXT[some]).statistic) < 0.02
    assert opened.page.locator('.explorer-wall button').count() == 60
    with opened.page.expect_download() as download:
        opened.page.get_by_role('button', name='Save as CSV').click()
    download.value.save_as(tmp_path / 'some.csv')
    import pandas as pd

    table = pd.read_csv(tmp_path / 'some.csv')
    assert len(table) == int(told[1]) and len(set(some) ^ set(table['index'])) <= 2
    assert (
        table['class'] == np.array(['cat', EVIL, 'say "dog", please'])[LABELS[table['index']]]
    ).all()
    np.testing.assert_allclose(table['main_loss'], MAIN[table['index']], rtol=2e-3, atol=1e-10)
    np.testing.assert_allclose(table['pretext_rank'], Y[table['index']], atol=1e-6)


def test_a_second_box_replaces_the_first(opened):
    opened.drag((0.2, 0.2), (0.8, 0.8))
    opened.drag((0.4, 0.4), (0.6, 0.6))
    np.testing.assert_allclose(selected(opened), [0.4, 0.6, 0.4, 0.6], atol=0.01)


def test_the_wall_grows_when_asked_and_its_pictures_can_be_kept(opened):
    opened.follow('#v=1&sel=box:0.1,0.9,0.1,0.9')
    opened.page.get_by_role('button', name='Show more').click()
    assert opened.page.locator('.explorer-wall button').count() == 120
    opened.page.locator('.explorer-wall button').nth(3).click()
    opened.settled()
    shown = inside(0.1, 0.9, 0.1, 0.9)
    assert f'image {shown[np.argsort(-PRETEXT[shown])][3]}' in opened.text('pinned')


def test_a_lasso_selects_what_it_surrounds(opened):
    opened.page.get_by_label('select by lasso').check()
    opened.settled()
    opened.drag((0.1, 0.1), (0.9, 0.1), (0.5, 0.9), (0.1, 0.1))
    corners = np.array(selected(opened)).reshape(-1, 2)
    from matplotlib.path import Path as Polygon

    some = np.flatnonzero(Polygon(corners).contains_points(np.c_[X, Y]))
    assert (
        abs(int(re.search(r'\d+', opened.text('head'))[0]) - len(some)) <= 3
        and 50 < len(some) < 400
    )


def test_numbers_select_without_a_pointer_and_a_corner_by_name(opened):
    for label, value in (
        ('main from', '0.5'),
        ('main to', '1'),
        ('pretext from', '0'),
        ('pretext to', '0.5'),
    ):
        opened.page.get_by_label(f'{label}, normalised rank').fill(value)
    opened.page.keyboard.press('Enter')
    opened.settled()
    assert f'Selected: {len(inside(0.5, 1, 0, 0.5))} images' in opened.text('head')
    opened.choose('Quadrant', 'hard for both')
    assert f'Selected: {len(inside(0.8, 1, 0.8, 1))} images' in opened.text('head')
    opened.page.get_by_role('button', name='Clear selection').click()
    opened.settled()
    assert opened.text('selected') == ''


def test_a_part_of_a_histogram_selects_by_loss_and_a_selection_shows_in_both(opened):
    box = opened.page.locator('.explorer-histograms').bounding_box()
    opened.page.mouse.move(box['x'] + 0.3 * box['width'], box['y'] + 40)
    opened.page.mouse.down()
    opened.page.mouse.move(box['x'] + 0.44 * box['width'], box['y'] + 60, steps=8)
    opened.page.mouse.up()
    opened.page.wait_for_selector('.explorer-head')
    opened.settled()
    low, high = selected(opened)
    count = int(re.search(r'\d+', opened.text('head'))[0])
    assert abs(count - ((low <= MAIN) & (high >= MAIN)).sum()) <= 2 and count > 20
    bars = opened.page.evaluate(
        'document.querySelector(".explorer-histograms").data.map(t => t.y.reduce((a, b) => a + b, 0))'
    )
    assert bars == [N, count, N, count]


# --- batches and picks ---


def test_the_slider_replays_the_split_and_what_a_strategy_picked(opened):
    opened.choose('Picks of', 'pt4al')
    assert 'pt4al picked 40 images in all cycles' in opened.text('small')
    opened.page.get_by_label('Batch of the split').focus()
    opened.page.keyboard.press('ArrowRight')
    opened.page.keyboard.press('ArrowRight')
    opened.settled()
    assert opened.state(batch='2')['picks'] == 'picks'
    assert 'pt4al picked 20 images in cycle 2 (rings), 0 of them outside batch 2.' in opened.text(
        'small'
    )
    assert opened.rows(1) == sorted(HARD[60:120]) and opened.rows(2) == sorted(HARD[60:80])
    opened.page.keyboard.press('ArrowRight')
    opened.settled()
    assert 'This run stopped after cycle 2.' in opened.text('small')


def test_the_batches_of_a_split_that_is_not_even_hold_every_image_once(opened):
    sizes = []
    for batch in range(1, 11):
        opened.follow(f'#v=1&data=uneven&batch={batch}')
        sizes.append(
            opened.page.evaluate('document.querySelector(".explorer-plot").data[1].x.length')
        )
    assert sizes == [len(part) for part in np.array_split(np.arange(13), 10)]


def test_it_plays_by_itself_and_stops(opened):
    opened.page.get_by_role('button', name='Play').click()
    opened.page.wait_for_function(
        'document.querySelector(".explorer-slide output").textContent.startsWith("2 of 10")'
    )
    opened.page.get_by_role('button', name='Stop').click()
    opened.page.wait_for_timeout(400)  # the address follows a moment later
    before = opened.state()['batch']
    opened.page.wait_for_timeout(1500)
    assert opened.state()['batch'] == before


def test_a_run_that_sorted_by_another_loss_says_so(opened):
    opened.choose('Picks of', 'pt4al')
    opened.choose('Pretext task', 'jigsaw')
    assert 'It sorted the pool by rotation, seed 0, not by the run shown here.' in opened.text(
        'small'
    )


# --- the address ---

CITED = (
    '#v=1&data=cifar10-mini&pretext=p-jigsaw&main=m-cifar10-mini&picks=picks&view=density&off=1&batch=3&pin=5'
    '&sel=box:0,0.5,0.5,1'
)


def test_an_address_brings_the_view_back(reader, site):
    reader.open(site, CITED)
    reader.page.wait_for_timeout(400)
    assert reader.state(pin='5') == dict(part.split('=') for part in CITED[1:].split('&'))
    task = reader.page.get_by_label('Pretext task', exact=True)
    assert task.input_value() == 'jigsaw' and 'image 5' in reader.text('pinned')
    assert not reader.page.get_by_label(EVIL).is_checked()
    assert reader.page.get_by_label('main to').input_value() == '0.5'
    assert not reader.page.locator('.explorer-note').is_visible()


@pytest.mark.parametrize(
    'address, note',
    [
        ('#v=0&task=rotation&point=3', 'made for another version of this page'),
        ('#v=1&data=gone', 'This report has no data “gone”'),
        ('#v=1&pretext=<b>', 'This report has no pretext “<b>”'),
        ('#v=1&sel=box:1,2', 'The selection in the address cannot be read.'),
        ('#v=1&sel=lasso:a,b,c,d,e,f', 'cannot be read'),
        ('#v=1&picks=gone&off=x.7&batch=99&view=3d', 'no picks “gone”'),
    ],
)
def test_an_address_that_cannot_be_followed_leads_to_the_defaults_and_says_so(
    opened, address, note
):
    opened.follow(address)
    assert opened.rows(0) == list(range(N)) and note in opened.text('note')


def test_an_address_of_a_heading_is_none_of_its_business(reader, site):
    assert not reader.open(site, '#some-heading').page.locator('.explorer-note').is_visible()


def test_an_image_that_is_not_there_is_told(opened):
    assert 'There is no image 6,000: the last is 599.' in opened.follow('#v=1&pin=6000').text(
        'pinned'
    )


def test_an_image_pinned_while_the_address_is_written_stays_pinned(reader, site):
    reader.page.add_init_script("""const later = window.setTimeout;
        window.setTimeout = (act, ms) => later(() => {
            act();
            if (ms !== 150 || window.pinned) return;
            window.pinned = true;
            document.querySelector('[aria-label="Number of an image"]').value = 1;
            document.querySelector('.explorer-right form').requestSubmit();
        }, ms);""")
    reader.open(site).page.wait_for_function('window.pinned')
    reader.state(pin='1')
    assert 'image 1' in reader.text('pinned')


def test_an_address_typed_into_an_open_page_is_followed(opened):
    opened.page.evaluate('location.hash = "#v=1&data=three"')
    opened.page.wait_for_function(
        'document.querySelector(".explorer-facts").textContent.startsWith("3 images")'
    )


# --- bad input ---


@pytest.mark.parametrize(
    'name, facts',
    [
        ('three', '3 images, Spearman rho -0.500.'),
        ('ties', '9 images, Spearman rho not defined (all losses of a side tie).'),
        (
            'holes',
            '5 images, Spearman rho 1.000. 4 images without a finite loss on both sides left out.',
        ),
        ('one', '1 image, Spearman rho not defined (fewer than three images).'),
        (
            'diverged',
            '0 images, Spearman rho not defined (fewer than three images). '
            '4 images without a finite loss on both sides left out.',
        ),
    ],
)
def test_few_points_ties_and_losses_that_are_not_finite(opened, name, facts):
    reader = opened.follow(f'#v=1&data={name}&pin=0&sel=box:0,1,0,1&batch=1')
    assert reader.text('facts') == facts
    assert 'This page holds no pictures of this data set.' in reader.text('pinned')
    assert not opened.page.locator('.explorer-note').is_visible()
    if name == 'holes':
        assert 'main-task: no loss that can be ranked' in reader.text('pinned')


def test_a_file_that_is_missing_is_told(reader, site):
    gone = site / '_static' / 'explorer' / 'p-three.js'
    gone.rename(gone.with_suffix('.away'))
    try:
        assert '_static/explorer/p-three.js cannot be read' in reader.open(
            site, '#v=1&data=three'
        ).text('note')
    finally:
        gone.with_suffix('.away').rename(gone)


# --- readers and their machines ---


def test_a_dark_page_gets_light_letters(opened):
    before = opened.page.evaluate('document.querySelector(".explorer-plot").layout.font.color')
    opened.page.evaluate('document.documentElement.dataset.theme = "dark"')
    opened.page.wait_for_function(
        'document.querySelector(".explorer-plot").layout.font.color === "rgb(221, 221, 221)"'
    )
    opened.page.evaluate('delete document.documentElement.dataset.theme')
    assert before == 'rgb(0, 0, 0)'


def test_a_phone_gets_one_column_and_a_finger_scrolls(browser, site):
    phone = browser.new_context(
        viewport={'width': 390, 'height': 844}, has_touch=True, is_mobile=True
    )
    reader = Reader(phone.new_page()).open(site, '#v=1&pin=3&sel=box:0,0.5,0,0.5')
    assert reader.page.evaluate('document.documentElement.scrollWidth') <= 390
    assert reader.page.evaluate('document.querySelector(".explorer-plot").layout.dragmode') is False
    left, right = (
        reader.page.locator(f'.explorer-{side}').bounding_box() for side in ('left', 'right')
    )
    assert right['y'] >= left['y'] + left['height'] and reader.errors == []
    phone.close()


def test_paper_gets_nothing_of_it(opened):
    opened.page.emulate_media(media='print')
    assert not opened.page.is_visible('.explorer')
    opened.page.emulate_media(media='screen')


def test_every_control_has_a_name_and_can_be_reached_by_tab(opened):
    names = set()
    for _ in range(60):
        opened.page.keyboard.press('Tab')
        names.add(
            opened.page.evaluate("""(() => { const e = document.activeElement;
            return e.getAttribute('aria-label') ?? e.labels?.[0]?.textContent ?? e.textContent; })()""").strip()
        )
    wanted = [
        'Data set',
        'Pretext task',
        'Main-task loss',
        'Quadrant',
        'main from, normalised rank',
        'Picks of',
        'Batch of the split',
        'Play',
        'Number of an image',
        'Search a class',
        'None',
        'cat',
    ]
    assert [
        name for name in wanted if not any(found.startswith(name) for found in names)
    ] == [] and '' not in names


def test_without_webgl_the_density_is_shown_and_images_are_found_by_number(reader, site):
    reader.page.add_init_script("""const get = HTMLCanvasElement.prototype.getContext;
        HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
            return kind.includes('webgl') ? null : get.call(this, kind, ...more);
        };""")
    reader.open(site, '#v=1&pin=4')
    assert 'This browser has no WebGL' in reader.text('note') and 'image 4' in reader.text('pinned')
    assert (
        reader.page.evaluate('document.querySelector(".explorer-plot").data[0].type') == 'heatmap'
    )


@pytest.mark.parametrize('width, height', [(1440, 900), (1100, 800)])
def test_controls_plot_and_images_stand_beside_each_other_in_one_screen(
    browser,  # noqa: F811
    site,
    width,
    height,
):
    page = browser.new_page(viewport={'width': width, 'height': height})
    reader = Reader(page).open(site, '#v=1&pin=3&sel=box:0,0.5,0,0.5')
    rail, left, right = (
        page.locator(f'.explorer-{part}').bounding_box() for part in ('rail', 'left', 'right')
    )
    assert rail['x'] + rail['width'] <= left['x'] and left['x'] + left['width'] <= right['x']
    assert all(part['y'] + part['height'] <= height for part in (rail, left, right))
    assert reader.errors == []
    page.close()


def test_an_opening_view_selects_a_quadrant_and_says_what_it_shows(opened):
    opened.page.get_by_role('button', name='Hard to rotate, easy to classify').click()
    assert opened.state(sel='box:0,0.2,0.8,1')
    assert 'the classifier is sure' in opened.text('openings')
    sort = opened.page.get_by_role('button', name='What the text sort puts first')
    assert sort.is_disabled()  # no such run is there


def test_where_images_are_not_at_hand_it_says_how_to_bring_them(opened):
    assert not opened.page.locator('.explorer-bring').is_visible()
    opened.choose('Data set', 'three (3)')
    assert 'Set PT4AL_DATA' in opened.text('right')


@pytest.fixture(scope='module')
def axe() -> str:
    """The source of axe-core, from npm or pip."""
    try:
        return check_book.axe_source()
    except RuntimeError as lack:
        pytest.skip(str(lack))


@pytest.mark.parametrize('theme', ['light', 'dark'])
def test_axe_finds_nothing(reader, site, axe, theme):
    reader.open(site, '#v=1&pin=5&sel=box:0,0.5,0.5,1&picks=picks&batch=1')
    reader.page.evaluate(f'document.documentElement.dataset.theme = "{theme}"')
    reader.page.wait_for_timeout(300)
    reader.page.evaluate(axe)
    assert check_book.run_axe(reader.page, check_book.RULES, []) == []


# --- two tasks, epochs, a first query of one's own ---


def test_two_tasks_side_by_side_share_what_is_selected(opened):
    plots = 'Array.from(document.querySelectorAll(".explorer-plot"))'
    opened.choose('Second pretext task', 'colorization').state(beside='p-colorization')
    first, second = opened.page.evaluate(f'{plots}.map(p => [!p.hidden, Array.from(p.data[0].y)])')
    assert first[0] and second[0]
    np.testing.assert_allclose(first[1], Y, atol=1e-6)
    np.testing.assert_allclose(second[1], rankdata(PRETEXT[::-1]) / N, atol=1e-6)
    opened.follow('#v=1&beside=p-colorization&sel=beside:0,1,0.901,1')
    marked = opened.page.evaluate(f'{plots}.map(p => Array.from(p.data[0].selectedpoints))')
    hard = np.flatnonzero(rankdata(PRETEXT[::-1]) / N > 0.901).tolist()
    assert marked == [hard, hard]
    assert opened.text('head').startswith(f'Selected: {len(hard)} images')
    opened.follow('#v=1')
    assert opened.page.evaluate(f'{plots}.map(p => p.hidden)') == [False, True]


def test_a_slider_goes_through_the_logged_epochs(opened):
    slider = opened.page.get_by_label('After epoch')
    assert slider.get_attribute('aria-valuetext') == 'all training'
    slider.fill('0')
    opened.settled().state(main='m-1')
    assert slider.get_attribute('aria-valuetext') == '1'
    slider.fill('1')
    opened.settled().state(main='m-10')
    opened.choose('Data set', 'three (3)')
    assert slider.is_hidden()


def test_a_first_query_is_measured_and_the_nearest_recorded_one_said_to_be_that(opened):
    opened.page.get_by_label('Labels', exact=True).fill('20')
    opened.page.get_by_role('button', name='Look').click()
    said = opened.page.locator('.explorer-cold p')
    opened.page.wait_for_function(
        'document.querySelector(".explorer-cold p").textContent.startsWith("20 labels")'
    )
    share = np.bincount(LABELS[HARD[:20]], minlength=3) / 20
    even = -sum(p * np.log(p) for p in share if p) / np.log(3)
    assert f'20 labels: class entropy {even:.3f} of 1, 3 of 3 classes, 1 of 10 batches.' in (
        said.inner_text()
    )
    assert 'not been trained on. The nearest' in said.inner_text()
    assert said.inner_text().endswith('test accuracy 41.5 %.')
    opened.page.locator('.explorer-cold select').select_option(label='the selection')
    opened.page.wait_for_function(
        'document.querySelector(".explorer-cold p").textContent.startsWith("Select two")'
    )
