"""What chapters show, the book they are built into, the browser that opens it, and the checker of
its pages.
"""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import on_page
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from helpers import EVIL, check_book, checked, scatter
from PIL import Image

from pt4al import data, figures, report
from pt4al.errors import Refused

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shown(monkeypatch):
    """What was displayed: (bundle or object, metadata)."""
    outputs = []
    for module in (report, on_page):
        monkeypatch.setattr(
            module,
            'display',
            lambda what, raw=False, metadata=None: outputs.append((what, metadata)),
        )
    return outputs


@pytest.fixture
def book_mode(monkeypatch):
    monkeypatch.setenv('PT4AL_BOOK', '1')


def parsed(html: str) -> BeautifulSoup:
    return BeautifulSoup(html, 'html.parser')


# --- figures ---


def test_page_has_still_data_caption_and_names_the_figure(shown, book_mode):
    figure = scatter()
    report.show(figure, f'Caption {EVIL}', 'ranks')
    page = parsed(shown[0][0]['text/html'])
    outer = page.find('figure', id='fig-ranks', role='figure')
    assert outer['aria-label'] == outer.figcaption.text == f'Caption {EVIL}'
    assert (
        outer.img['alt'] == figure.alt
        and base64.b64decode(outer.img['src'].split(',')[1]) == figure.still
    )
    assert outer.find(class_='report-title').text == f'ranks {EVIL}'
    assert [script['type'] for script in page.find_all('script')] == ['application/json']
    assert len(json.loads(outer.script.string)['data']) == len(figure.live.data)


def test_page_of_fifty_thousand_points_is_light(shown, book_mode):
    report.show(scatter(50_000), 'Caption', 'ranks')
    # a page may hold 1,000,000 bytes and has text as well
    assert len(shown[0][0]['text/html']) < 850_000


def test_a_still_alone_needs_no_script(shown, book_mode):
    report.show(figures.turns(np.zeros((1, 3, 32, 32), np.uint8)), 'Caption', 'turns')
    page = parsed(shown[0][0]['text/html'])
    assert page.img and not page.script and not page.find(class_='report-panel')


def test_notebook_gets_the_live_figure_and_the_still(shown, monkeypatch):
    monkeypatch.delenv('PT4AL_BOOK', raising=False)
    figure = scatter()
    report.show(figure, f'Caption {EVIL}', 'ranks')
    bundle, caption = shown[0][0], shown[1][0]
    assert len(bundle['application/vnd.plotly.v1+json']['data']) == len(figure.live.data)
    assert base64.b64decode(bundle['image/png']) == figure.still and EVIL not in caption.data
    json.dumps(bundle)  # a notebook file can hold it


def test_name_must_be_an_anchor(shown):
    with pytest.raises(Refused, match="'Figure 1' cannot be an anchor"):
        report.show(scatter(), 'Caption', 'Figure 1')


def test_packed_losses_keep_three_digits_and_indices_all():
    losses = np.array([[0, 1.5e-7], [-2.5, 9.994e-5], [1234.5, 3e4]])
    packed = on_page.pack(np.column_stack([[70_000, 5, 65_535], losses]))
    index = np.frombuffer(base64.b64decode(packed['index']['bdata']), packed['index']['dtype'])
    codes = np.frombuffer(
        base64.b64decode(packed['codes']['bdata']), packed['codes']['dtype']
    ).astype(float)
    steps = np.abs(codes) / 32767 * packed['decades'] + packed['smallest']
    assert index.tolist() == [70_000, 5, 65_535]
    np.testing.assert_allclose(
        np.where(codes, np.sign(codes) * 10**steps, 0).reshape(3, 2), losses, rtol=6e-4
    )


def test_sprites_hold_each_image_in_its_place(tmp_path):
    pixels = data.arrays('cifar10-mini')[0].pixels[:1041]
    on_page.write_sprites(pixels, tmp_path)
    for i in (0, 39, 40, 999, 1000, 1040):
        with Image.open(tmp_path / f'{i // 1000}.jpg') as sheet:
            x, y = i % 1000 % 40 * 32, i % 1000 // 40 * 32
            tile = np.asarray(sheet.crop((x, y, x + 32, y + 32)), np.int16).transpose(2, 0, 1)
        assert np.abs(tile - pixels[i]).mean() < 8  # JPEG
    assert sorted(path.name for path in tmp_path.iterdir()) == ['0.jpg', '1.jpg']


def test_sprites_are_named_on_the_page_only_where_images_are_at_hand(
    shown, book_mode, monkeypatch, tmp_path
):
    monkeypatch.setenv('PT4AL_STATIC', str(tmp_path))
    monkeypatch.setattr(data, 'available', lambda name: name == 'cifar10-mini')
    for name in ('cifar10-mini', 'cifar10'):
        report.show(scatter(), 'Caption', 'ranks', sprites=name)
    at_hand, neutral = (
        parsed(output[0]['text/html']).find(class_='report-panel') for output in shown
    )
    assert (
        at_hand['data-sprites'] == 'cifar10-mini'
        and (tmp_path / 'sprites' / 'cifar10-mini' / '3.jpg').is_file()
    )
    assert not neutral.has_attr('data-sprites')


# --- numbers and tables ---


def test_glue_is_what_myst_nb_reads(shown):
    from myst_nb.core.variables import format_plain_text
    from myst_nb.ext.glue import extract_glue_data_cell

    for value, fmt, text in [
        (0.44, '.3f', '0.440'),
        (50_000, ',', '50,000'),
        ("it's 7", '', "it's 7"),
        (1, '', '1'),
    ]:
        report.glue('name', value, fmt)
        content, metadata = shown.pop()
        cell = nbformat.v4.new_code_cell(
            outputs=[nbformat.v4.new_output('display_data', content, metadata=metadata)]
        )
        [(name, output)] = extract_glue_data_cell(cell)
        assert name == 'name' and format_plain_text(output['data']['text/plain'], '') == text
        assert cell.outputs == []  # nothing of it is displayed


@pytest.mark.parametrize(
    'low, high, text',
    [(0.434, 0.446, '0.44 [0.43, 0.45]'), (math.nan, math.nan, '0.44 (one run: no interval)')],
)
def test_interval_in_words(low, high, text):
    assert report.fmt_interval(SimpleNamespace(value=0.44, low=low, high=high)) == text


def test_a_value_that_can_have_no_interval_is_not_called_that_of_one_run():
    assert (
        report.fmt_interval(
            SimpleNamespace(value=0.44, low=math.nan, high=math.nan, method='no interval')
        )
        == '0.44'
    )


def test_table_escapes_everything_and_aligns_numbers():
    rows = [{EVIL: EVIL, 'n': 3, 'rho': 0.123456}, {EVIL: 'b', 'n': None, 'rho': math.nan}]
    html = report.table(rows, EVIL).data
    page = parsed(html)
    assert not page.script and page.caption.text == EVIL and page.th.text == EVIL
    assert [[cell.text for cell in row.find_all('td')] for row in page.tbody.find_all('tr')] == [
        [EVIL, '3', '0.1235'],
        ['b', '–', '–'],
    ]
    assert [cell['class'] for cell in page.tbody.tr.find_all('td')] == [
        ['report-l'],
        ['report-r'],
        ['report-r'],
    ]
    assert report.table(pd.DataFrame({'a': [1]}), 'c').data == report.table([{'a': 1}], 'c').data


def test_provenance_dashes_what_is_missing():
    made = {
        'data': '1f' * 32,
        'commit': 'abcabcabcabc+',
        'seconds': 12.5,
        'device': 'cuda',
        'chip': 'H200',
        'threads': 2,
        'precision': 'bf16',
        'torch': '2.12.1',
    }
    results = [
        SimpleNamespace(
            key='k1',
            kind='pretext',
            spec=SimpleNamespace(dataset='cifar10', seed=3),
            provenance=made,
        ),
        SimpleNamespace(
            key='k2',
            kind='main',
            spec=SimpleNamespace(dataset='cifar10'),
            provenance={'commit': 'abc', 'seconds': 1, 'data': '1f' * 32},
        ),
    ]
    rows = parsed(report.provenance(results).data).tbody.find_all('tr')
    assert [[cell.text for cell in row.find_all('td')] for row in rows] == [
        [
            'k1',
            'pretext',
            'cifar10',
            '3',
            '12.5',
            'cuda, H200',
            '2',
            'bf16',
            '2.12.1',
            'abcabcabcabc+',
            '1f1f1f1f1f1f',
        ],
        ['k2', 'main', 'cifar10', '–', '1', *['–'] * 4, 'abc', '1f1f1f1f1f1f'],
    ]


# --- parameters ---


def test_undeclared_parameter_is_refused_with_the_nearest_name():
    with pytest.raises(Refused, match="unknown parameter 'datset': did you mean 'dataset'"):
        report.check_parameters({'datset': 'cifar10', 'seed': 0}, 'dataset', 'seed')


@pytest.mark.parametrize(
    'name, value, words',
    [
        ('seeds', 'two', "parameter seeds is 'two': give a whole number of at least 1"),
        ('seeds', 1.5, 'give a whole number of at least 1'),
        ('seeds', True, 'give a whole number of at least 1'),
        ('seeds', 0, 'parameter seeds is 0: give a whole number of at least 1'),
        ('margin', 'abc', "parameter margin is 'abc': give a number of at least 0.5"),
        ('margin', -1, 'give a number of at least 0.5'),
        ('finetune', 'no', "parameter finetune is 'no': give True or False"),
        ('finetune', 1, 'give True or False'),
    ],
)
def test_a_parameter_of_another_type_is_refused_by_its_name(name, value, words):
    fine = {'dataset': 'x', 'seeds': 1, 'margin': 1, 'finetune': True}
    least = {'seeds': 1, 'margin': 0.5, 'finetune': False}
    report.check_parameters(fine, 'dataset', **least)
    report.check_parameters(dict.fromkeys(fine), 'dataset', **least)
    with pytest.raises(Refused, match=re.escape(words)):
        report.check_parameters(fine | {name: value}, 'dataset', **least)


def test_imports_and_private_names_are_no_parameters():
    report.check_parameters(
        {
            'dataset': 'x',
            'np': np,
            'Path': Path,
            '_cell': 1,
            'In': [],
            'Out': {},
            'show': report.show,
        },
        'dataset',
    )


def test_papermill_does_not_run_on_with_a_misspelt_parameter(tmp_path, monkeypatch):
    papermill = pytest.importorskip('papermill')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    cells = [
        "dataset = 'cifar10-mini'",
        "from pt4al import report\nreport.check_parameters(globals(), 'dataset')",
    ]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in cells],
        metadata={
            'kernelspec': {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}
        },
    )
    notebook.cells[0].metadata['tags'] = ['parameters']
    nbformat.write(notebook, tmp_path / 'in.ipynb')
    paths, given = (
        [str(tmp_path / name) for name in ('in.ipynb', 'out.ipynb')],
        {'datset': 'cifar10'},
    )
    with pytest.raises(papermill.PapermillExecutionError, match="did you mean 'dataset'"):
        papermill.execute_notebook(*paths, given, progress_bar=False)


# --- the book ---

INDEX = r"""---
jupytext:
  text_representation:
    format_name: myst
kernelspec:
  display_name: Python 3
  name: python3
---
# One chapter

The number is {glue:text}`number`, and {cite:t}`yi2022pt4al` says more. See [the figure](#fig-ranks).

```{code-cell} ipython3
:tags: [remove-cell]
from pt4al import report
import number
report.glue('number', number.VALUE, '.3f')
```

$$\mathcal{L}_i = \frac{1}{4}\sum_{k=1}^{4} \ell(x_{i,k}), \; \arg\min_{\theta} f(\theta), \; \{1,\dots,K\}$$ (loss)

By {eq}`loss` and $\hat{\rho}$.

```{code-cell} ipython3
:tags: [hide-input]
import numpy as np
from pt4al import data, figures
train, _ = data.arrays('cifar10-mini')
losses = np.random.default_rng(0).gamma(0.3, 1, (2, len(train.labels)))
report.show(figures.loss_rank_scatter(*losses, train.labels, train.classes, np.arange(len(train.labels)), 'ranks'),
            'A caption.', 'ranks', sprites='cifar10-mini')
```

```{bibliography}
```
"""


@pytest.fixture(scope='module')
def book(tmp_path_factory):
    """A book of one chapter and one page without figures, built as the report is; its html folder."""
    top = tmp_path_factory.mktemp('book')
    shutil.copy(ROOT / '_config.yml', top)
    for part in ('_ext', '_assets'):
        shutil.copytree(
            ROOT / 'book' / part, top / 'book' / part, ignore=shutil.ignore_patterns('__pycache__')
        )
    shutil.copy(ROOT / 'book' / 'references.bib', top / 'book')
    shutil.copytree(ROOT / 'pt4al', top / 'pt4al', ignore=shutil.ignore_patterns('__pycache__'))
    (top / 'book' / '_toc.yml').write_text(
        'format: jb-book\nroot: index\nchapters:\n- file: plain\n'
    )
    (top / 'book' / 'index.md').write_text(INDEX)
    (top / 'book' / 'plain.md').write_text('# Plain\n\nNo figure, but [one there](#fig-ranks).\n')
    build(top, '0.44')
    return top / '_build' / 'html'


def build(top: Path, number: str) -> None:
    # code that changes makes every page anew, as a result does
    (top / 'book' / '_code').mkdir(exist_ok=True)
    shutil.copy(ROOT / 'book' / '_code' / 'on_page.py', top / 'book' / '_code')
    (top / 'book' / '_code' / 'number.py').write_text(f'VALUE = {number}\n')
    command = [
        Path(sys.executable).with_name('jupyter-book'),
        'build',
        'book/',
        '-W',
        '-n',
        '--keep-going',
    ]
    run = subprocess.run(command, cwd=top, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_there_is_one_configuration_and_it_is_on_top():
    assert (ROOT / '_config.yml').is_file() and not (ROOT / 'book' / '_config.yml').exists()


def test_built_book_passes_the_checker(book, capsys):
    assert check_book.main(book) == 0
    assert capsys.readouterr().out.startswith('4 pages, ')  # with search and index


@pytest.mark.first
def test_numbers_formulas_and_links_are_in_the_page(book):
    page = parsed((book / 'index.html').read_text('utf-8'))
    text = page.find('article').get_text()
    assert 'The number is 0.440' in text and 'Yi et al.' in text and '(1)' in text
    assert (
        len(page.find_all('math')) == 2
        and page.math.find('mfrac')
        and '\\' not in page.math.get_text()
    )
    assert page.find('a', href='#fig-ranks') and page.find(id='fig-ranks')


def test_only_a_page_with_a_figure_loads_plotly_and_none_loads_live_code(book):
    with_figure, plain = ((book / name).read_text('utf-8') for name in ('index.html', 'plain.html'))
    assert '_static/plotly.min.js' in with_figure and '_static/report.js' in with_figure
    assert 'plotly' not in plain and 'report.js' not in plain
    for script in ('THEBE_JS_URL', 'sphinx-thebe.js', 'window.MathJax', 'mathjax@'):
        assert script not in with_figure + plain


@pytest.fixture
def opened(book, browser):
    """The chapter in a browser, its figure drawn, and every address the page asked for."""
    page, asked = browser.new_page(viewport={'width': 1200, 'height': 1600}), []
    page.on('request', lambda request: asked.append(request.url))
    page.goto((book / 'index.html').as_uri())
    page.wait_for_selector('.report-panel:not([hidden])', timeout=120_000)
    yield page, asked
    page.close()


def test_browser_draws_the_figure_from_local_files_only(opened):
    page, asked = opened
    assert page.is_visible('.report-live') and not page.is_visible('.report-still')
    assert [
        address for address in asked if not address.startswith(('file:', 'data:', 'blob:'))
    ] == []
    losses = np.random.default_rng(0).gamma(0.3, 1, (2, 4000))
    points = page.evaluate(
        'document.querySelector(".report-live").data.flatMap(trace => trace.customdata)'
    )
    index, main, pretext = np.array(points).T
    assert sorted(index) == list(range(4000))
    np.testing.assert_allclose([main, pretext], losses[:, index.astype(int)], rtol=6e-4, atol=1e-10)


def test_pointing_at_an_image_shows_it(opened):
    page, asked = opened
    where = page.evaluate("""() => {
        const box = document.querySelector('.report-live'), {xaxis, yaxis} = box._fullLayout;
        const trace = box._fullData.at(-1), at = box.getBoundingClientRect();
        return [at.left + xaxis._offset + xaxis.c2p(trace.x[0]), at.top + yaxis._offset + yaxis.c2p(trace.y[0])];
    }""")
    for _ in range(60):  # plotly passes over a movement that comes while it draws
        page.mouse.move(where[0] - 3, where[1] - 3)
        page.mouse.move(*where, steps=4)
        page.wait_for_timeout(500)
        if page.locator('.report-panel p', has_text='image ').count():
            break
    index = int(
        page.inner_text('.report-panel p').split('image ')[1].split('\n')[0].replace(',', '')
    )
    style = page.evaluate('({...document.querySelector(".report-tile").style})')
    assert style['backgroundImage'].endswith(f'_static/sprites/cifar10-mini/{index // 1000}.jpg")')
    assert style['backgroundPosition'] == f'{-(index % 40) * 96}px {-(index % 1000 // 40) * 96}px'
    for _ in range(100):
        page.wait_for_timeout(100)
        if any(f'/{index // 1000}.jpg' in address for address in asked):
            break
    else:
        pytest.fail(f'the page did not ask for the pictures of image {index}')


def test_paper_gets_the_still(opened):
    page, _ = opened
    page.emulate_media(media='print')
    assert page.is_visible('.report-still') and not page.is_visible('.report-live')


def test_without_scripts_the_still_stays(book, browser):
    page = browser.new_page(java_script_enabled=False)
    page.goto((book / 'index.html').as_uri())
    assert page.is_visible('.report-still') and not page.is_visible('.report-panel')
    page.close()


def test_building_again_changes_the_number_that_changed_and_not_a_byte_besides(book):
    # without the suffixes of style sheets, which a first build cannot know
    def pages() -> list[bytes]:
        return [
            re.sub(rb'css\?v=\w+', b'css', (book / name).read_bytes())
            for name in ('index.html', 'plain.html', '_static/sprites/cifar10-mini/0.jpg')
        ]

    before = pages()
    build(book.parents[1], '0.55')
    assert b'>0.440<' in before[0] and pages() == [
        before[0].replace(b'>0.440<', b'>0.550<'),
        *before[1:],
    ]


# --- the checker ---


@pytest.mark.parametrize(
    'body, problem',
    [
        ('<a href="gone.html">x</a>', 'links to gone.html: no such file'),
        (
            '<a href="other.html#gone">x</a>',
            'links to other.html#gone: other.html has no such anchor',
        ),
        ('<a href="#gone">x</a>', 'links to #gone: page.html has no such anchor'),
        ('<img src="gone.png" alt="">', 'loads gone.png: no such file'),
        ('<img src="other.html?v=1">', 'picture without alt'),
        (
            '<img src="https://example.org/x.png" alt="">',
            'loads https://example.org/x.png from the network',
        ),
        (
            '<img srcset="//example.org/x.png 2x" src="other.html" alt="">',
            'loads //example.org/x.png from the network',
        ),
        (
            '<script src="https://example.org/x.js"></script>',
            'loads https://example.org/x.js from the network',
        ),
        (
            '<link rel="stylesheet" href="http://example.org/x.css">',
            'loads http://example.org/x.css from the network',
        ),
        (
            '<p style="background: url(https://example.org/x.png)">x</p>',
            'loads https://example.org/x.png from the network',
        ),
        (
            '<style>@import "https://example.org/x.css";</style>',
            'loads https://example.org/x.css from the network',
        ),
        (
            '<script>fetch("https://example.org")</script>',
            'a script names an address on the network',
        ),
        ('<p id="top">x</p>', "id 'top' occurs 2 times"),
        ('<h4>x</h4>', 'heading h4 follows h2'),
        ('<h1>x</h1>', 'the headings must begin with the only h1'),
        ('x' * 1_000_001, 'more than 1,000,000'),
    ],
)
def test_checker_finds_what_is_wrong(tmp_path, capsys, body, problem):
    *problems, last = checked(tmp_path, body, capsys)
    assert len(problems) == 1 and problems[0].startswith('page.html: ') and problem in problems[0]
    assert last.startswith('2 pages, ')


def test_checker_finds_what_a_style_sheet_loads(tmp_path, capsys):
    (tmp_path / 'x.css').write_text(
        '@font-face { src: url("https://example.org/x.woff"), url(gone.woff) }'
    )
    *problems, _ = checked(tmp_path, '<link rel="stylesheet" href="x.css?v=1">', capsys)
    assert problems == [
        'x.css: loads https://example.org/x.woff from the network',
        'x.css: loads gone.woff: no such file',
    ]


def test_checker_allows_what_a_reader_may_click_and_what_is_there(tmp_path, capsys):
    body = (
        '<a href="https://arxiv.org/abs/2201.07459">x</a><a href="other.html#top">x</a><a href="#top">x</a>'
        '<a href="#">x</a><a href="mailto:a@example.org">x</a><img src="data:image/png;base64,AA" alt="x">'
        '<script type="application/json">"https://example.org"</script>'
    )
    assert checked(tmp_path, body, capsys) == ['2 pages, 6 links checked']


def test_checker_does_not_take_an_empty_folder_for_a_book(tmp_path, capsys):
    assert check_book.main(tmp_path) == 1 and 'holds no page' in capsys.readouterr().out


@pytest.mark.parametrize(
    'value, words',
    [
        ('random,pt4al', ['random', 'pt4al']),
        (['random', 'pt4al'], ['random', 'pt4al']),
        (' random, pt4al,', ['random', 'pt4al']),
        ([1, 16], ['1', '16']),
        (4, ['4']),
        ('', []),
        ([], []),
    ],
)
def test_a_list_parameter_is_a_list_or_a_comma_text(value, words):
    assert report.listed(value) == words


@pytest.mark.parametrize('value', [None, True, {'a': 1}, [['a']], [None]])
def test_what_is_no_list_is_refused(value):
    with pytest.raises(Refused, match='is no list: write a,b'):
        report.listed(value)


def test_a_list_that_is_too_short_is_refused():
    with pytest.raises(Refused, match="'random,' lists 1 values: give at least 2"):
        report.listed('random,', 2)


def test_a_list_that_repeats_a_value_is_refused():
    with pytest.raises(Refused, match='lists random twice: give each value once'):
        report.listed('random, pt4al,random', 2)
