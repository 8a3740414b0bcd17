"""Tables and pages that people open: what is written is read back, nothing runs, and a bad file of
labels is one line.
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup
from helpers import by_name
from hypothesis import given, settings
from hypothesis import strategies as st

from pt4al import files
from pt4al.errors import Refused
from pt4al.own import labels as labels_of
from pt4al.own import output, sheet
from pt4al.own.folder import Tree
from pt4al.own.rounds import Round

FORMULA = ('=', '+', '-', '@', '\t', '\r', '\n')  # what a spreadsheet takes for its start
NASTY = [
    '=1+1.png',
    '+a.png',
    '-a.png',
    '@a.png',
    '\ta.png',
    '\ra.png',
    "'=a.png",
    "''.png",
    "'a.png",
    'a,b.png',
    'a"b.png',
    'a\nb.png',
    '<script>alert(1)</script>.png',
    'ü/é.png',
    ' a .png',
    ';',
    '',
]


# --- cells ---


@given(st.text() | st.text(alphabet='=+-@;\t\r\n\'" ab'))
@settings(max_examples=100, deadline=None)
def test_a_guarded_cell_is_no_formula_and_is_read_back(text):
    guarded = labels_of.escape_formula(text)
    assert not guarded.startswith(FORMULA) and labels_of.unescape_formula(guarded) == text


@pytest.mark.parametrize('text', ["'a.png", "it's", 'a=b'])
def test_text_that_was_never_guarded_is_left_alone(text):
    assert labels_of.unescape_formula(text) == text


def test_every_name_and_label_is_read_back_from_the_table(tmp_path):
    labels = {
        name: f'={number}' if number % 2 else f'c,"{number}'
        for number, name in enumerate(NASTY)
        if name
    }
    sheet.write_csv(
        tmp_path / 'a.csv',
        {'path': list(labels), 'loss': [0.5] * len(labels), 'label': list(labels.values())},
    )
    assert by_name(labels_of.read_labels(tmp_path / 'a.csv')) == {
        name: (label,) for name, label in labels.items()
    }
    with open(tmp_path / 'a.csv', newline='', encoding='utf-8') as file:
        assert not [cell for row in csv.reader(file) for cell in row if cell.startswith(FORMULA)]


def test_numbers_stay_numbers(tmp_path):
    sheet.write_csv(tmp_path / 'a.csv', {'path': ['a'], 'loss': [-1.5]})
    assert (tmp_path / 'a.csv').read_text().splitlines()[1] == 'a,-1.5'


def test_a_table_is_written_through_a_link_with_the_rights_that_it_had(tmp_path):
    sheet.write_csv(tmp_path / 'a.csv', {'path': ['old']})
    (tmp_path / 'a.csv').chmod(0o640)
    (tmp_path / 'link.csv').symlink_to('a.csv')
    sheet.write_csv(tmp_path / 'link.csv', {'path': ['new']})
    assert (tmp_path / 'link.csv').is_symlink() and 'new' in (tmp_path / 'a.csv').read_text()
    assert (tmp_path / 'a.csv').stat().st_mode & 0o777 == 0o640


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError) as error, files.written(tmp_path / 'a.csv'):
        raise OSError(28, 'No space left on device')
    assert error.value.filename == f'{tmp_path}/a.csv'


def test_a_table_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    sheet.write_csv(tmp_path / 'a.csv', {'path': ['old']})
    monkeypatch.setattr('os.replace', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        sheet.write_csv(tmp_path / 'a.csv', {'path': ['new']})
    assert 'old' in (tmp_path / 'a.csv').read_text() and [
        path.name for path in tmp_path.iterdir()
    ] == ['a.csv']


# --- labels ---


def labels(folder: Path, text: str | bytes) -> dict[str, str]:
    (folder / 'labels').write_bytes(text if isinstance(text, bytes) else text.encode())
    answers = by_name(labels_of.read_labels(folder / 'labels'))
    return {name: answer[0] if len(answer) == 1 else answer for name, answer in answers.items()}


def task(name: str, *answers: object, cancelled: bool = False) -> dict[str, object]:
    results = [
        {'type': 'choices', 'value': {'choices': answer if isinstance(answer, list) else [answer]}}
        for answer in answers
    ]
    return {
        'id': 1,
        'data': {'image': f'/data/local-files/?d={name}', 'path': name, 'loss': 1.0},
        'annotations': [{'was_cancelled': cancelled, 'result': results}],
    }


@pytest.mark.parametrize(
    'text',
    [
        'path,label\na.png,cat\nb.png,dog\nc.png,\n',
        '\ufeffPath,rank,Label\r\na.png,1,cat\r\n\r\nb.png,2, dog \r\n',
        'choice,image\ncat,a.png\ndog,b.png\n',
        'path,label\na.png,cat\nb.png,dog\nc.png\n',
        json.dumps(
            [
                task('a.png', 'cat'),
                task('b.png', 'dog'),
                task('c.png'),
                task('a.png', 'bird', cancelled=True),
            ]
        ),
        json.dumps(
            [
                {'path': 'a.png', 'image': '/data/local-files/?d=a.png', 'choice': 'cat'},
                {'path': 'b.png', 'label': 'dog'},
                {'path': 'c.png'},
            ]
        ),
        json.dumps(
            [
                {
                    'data': {'image': f'/data/local-files/?d={name}'},
                    'annotations': task(name, answer)['annotations'],
                }
                for name, answer in (('a.png', 'cat'), ('b%2Epng', 'dog'))
            ]
        ),
    ],
)
def test_labels_are_read_from_tables_and_from_label_studio(tmp_path, text):
    assert labels(tmp_path, text) == {'a.png': 'cat', 'b.png': 'dog'}


@pytest.mark.parametrize(
    'text, message',
    [
        ('path,label\na,cat\nb,dog\na,dog\n', "two labels of 'a', 'cat' and 'dog': keep one"),
        (json.dumps([task('a', 'cat'), task('a', 'dog')]), "two labels of 'a', 'cat' and 'dog'"),
        ('path,label\na,\n', 'holds no label: fill the column label'),
        ('', 'has no column path'),
        ('name,label\na,cat\n', 'has no column path or image or file or '),
        ('path\na\n', 'has no column label'),
        ('label,path\ncat\n', 'has no path in line 2'),
        ('path,label\n"a,cat\n', 'is no CSV'),
        (b'path,label\n\xff,cat\n', 'it is not UTF-8'),
        (b'\x89PNG\r\n', 'it is not UTF-8'),
        ('[1, 2]', 'not the JSON of image classification'),
        ('[' * 99_999, 'not the JSON of image classification'),
        ('{"a": 1}', 'not the JSON'),
        (
            json.dumps([{'data': {'image': 'a'}, 'annotations': [{'result': []}]}] * 2),
            'holds no label',
        ),
    ],
)
def test_what_is_no_file_of_labels_is_told_in_one_line(tmp_path, text, message):
    with pytest.raises(Refused, match=message) as refusal:
        labels(tmp_path, text)
    assert '\n' not in str(refusal.value)


def test_a_file_that_is_not_there_or_far_too_large_is_told(tmp_path, monkeypatch):
    for path, why in ((tmp_path / 'none.csv', 'cannot be read'), (tmp_path, 'is a folder')):
        with pytest.raises(Refused, match=why):
            labels_of.read_labels(path)
    monkeypatch.setattr(labels_of, 'MOST_BYTES', 5)
    with pytest.raises(Refused, match='is too large'):
        labels(tmp_path, 'path,label\na,cat\n')


def test_a_label_given_twice_alike_is_one(tmp_path):
    assert labels(tmp_path, 'path,label\na,cat\na,cat\n') == {'a': 'cat'}


def test_label_studios_tasks_come_back_as_labels(tmp_path):
    names = [name for name in NASTY if name]
    sheet.write_tasks(tmp_path / 'tasks.json', 'photos', names, {'rank': list(range(len(names)))})
    tasks = json.loads((tmp_path / 'tasks.json').read_text())
    assert all(
        re.fullmatch(r'/data/local-files/\?d=[\w./%~-]+', one['data']['image']) for one in tasks
    )
    answered = [one | {'annotations': task('', 'cat')['annotations']} for one in tasks]
    assert labels(tmp_path, json.dumps(answered)) == dict.fromkeys(names, 'cat')


# --- the contact sheet ---


def test_a_page_runs_nothing_and_loads_nothing(tmp_path):
    n = len(NASTY)
    pixels, odd = np.full((n, 3, 8, 8), 200, np.uint8), {'<u>\udcff': 'why <s>'}
    tree = Tree(tmp_path / '<b>', 8, tuple(NASTY), pixels, odd, {})
    known = labels_of.Labels(np.zeros(1, int), np.zeros(1, int), ('<u>',), {0: ('<u>',)})
    made = output.Ranking(
        tree,
        known,
        Round('x', 'margin', 1, 0, 'rotation'),
        picked=np.array([1]),
        reasons=('<u>; b',),
        duplicates=np.array([[0, 2]]),
        place=np.full((n, 2), [0.5, 1]),
        results=(),
        why='a & b',
        files={},
        loss=np.ones(n),
        rank=np.arange(n) + 1,
        batch=np.ones(n, int),
    )
    read = BeautifulSoup(output.contact_sheet(made).encode('utf-8'), 'html.parser')
    assert (
        not read('script')
        and not read('b')
        and not read('u')
        and not read('link')
        and read.h1.text == 'To label: <b>'
    )
    assert len(read('img')) == 3 * n + 3 and all(
        one['src'].startswith('data:image/jpeg;base64,') for one in read('img')
    )
    assert (
        "default-src 'none'" in read.find('meta', attrs={'http-equiv': True})['content']
        and read.find('a')['style'] == 'left:50.0%;bottom:100.0%'
    )
    assert '<script>alert(1)</script>.png' in [
        caption.get_text('|').split('|')[0] for caption in read('figcaption')
    ]
    assert [one.text for one in read('h2')] == [
        *('Picked', 'Hardest', 'Easiest', 'Labels so far', 'Map of the features'),
        *('Near duplicates', 'Left out'),
    ]


def test_reasons_that_differ_in_detail_count_as_one():
    why = {'a': 'cannot be read: x', 'b': 'cannot be read: y', 'c': 'is no image by its name'}
    assert sheet.summary(why) == '2 cannot be read, 1 is no image by its name'
    assert sheet.summary({name: name for name in 'abcdefg'}).endswith(', 1 e and 2 more')
