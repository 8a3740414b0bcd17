"""The checker of the built book finds pages that contradict each other or themselves."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = next(p for p in Path(__file__).resolve().parents if (p / 'pyproject.toml').exists())
PAGE = (
    '<!DOCTYPE html><html lang="en"><head><title>t</title></head><body><article><h1>Page</h1>'
    '{}</article></body></html>'
)
TABLE = (
    '<table class="report-table"><caption>{}</caption>'
    '<thead><tr><th>claim</th><th>{}</th></tr></thead>'
    '<tbody><tr><td>1</td><td>{}</td></tr></tbody></table>'
)


@pytest.fixture
def check(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location('check_book', ROOT / 'scripts' / 'check_book.py')
    check_book = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check_book)
    folder = tmp_path / 'html'
    folder.mkdir()

    def problems(body: str, **others: str) -> list[str]:
        for name, text in {'index': body, **others}.items():
            (folder / f'{name}.html').write_text(PAGE.format(text))
        for cached in (check_book.soup, check_book.anchors):
            cached.cache_clear()
        check_book.main(folder)
        return [
            line
            for line in capsys.readouterr().out.splitlines()
            if not line.endswith('links checked')
        ]

    return problems


@pytest.mark.parametrize(
    'caption, head, cell, problem',
    [
        ('c', 'rho', '0.8986 [0.9959, 0.9994]', 'does not hold its number'),
        ('c', 'recall, %', '30.0 [-36.7, 96.7]', 'leaves 0 to 100 %'),
        ('Recall, %, mean', 'plane', '54.0 [-2.8, 110.8]', 'leaves 0 to 100 %'),
        ('c', 'share', '6 % [-10, 22]', 'leaves 0 to 100 %'),
    ],
)
def test_an_interval_that_cannot_be_is_found(check, caption, head, cell, problem):
    [found] = check(TABLE.format(caption, head, cell))
    assert found.startswith('index.html: the interval') and problem in found


def test_a_difference_may_be_negative_and_a_sound_interval_is_none(check):
    assert not check(
        TABLE.format('Accuracy, %', 'minus random, points', '-12.5 [-28.1, 3.2]')
        + TABLE.format('Accuracy, %', 'random', '48.8 [46.0, 51.7]')
        + TABLE.format('c', 'rho [95 % bootstrap interval]', '-0.05 [-0.11, 0.01]')
        + '<p>rho is \u22120.06 [\u22120.07, \u22120.05], 1,098 [1,000, 1,200] images</p>'
    )


def test_a_claim_leads_to_a_page_that_has_its_data_set_and_has_been_run(check):
    link = '<a href="other.html">0.37</a>'
    body = TABLE.format('Claims', 'Caltech-101', link)
    assert check(body, other='<p>CIFAR-10 alone</p>') == [
        'index.html: a claim about Caltech-101 leads to other.html, which does not name it'
    ]
    assert check(body, other='<p>Caltech-101: not yet run.</p>') == [
        'index.html: a claim leads to other.html, which says that something is not yet run'
    ]
    assert not check(body, other='<p>caltech101 and more</p>')


def test_a_shared_number_is_the_same_on_every_page(check, tmp_path):
    executed = tmp_path / 'jupyter_execute' / 'runs'
    executed.mkdir(parents=True)
    for name, text in (('a', "'-5.0'"), ('b', "'-4.9'")):
        content = {key: {'data': {'text/plain': text}} for key in ('claim 3 cifar10-mini', 'n')}
        (executed / f'{name}.glue.json').write_text(json.dumps(content))
    assert check('') == [
        "index.html: 'claim 3 cifar10-mini' differs: '-5.0' on runs/a; '-4.9' on runs/b"
    ]
