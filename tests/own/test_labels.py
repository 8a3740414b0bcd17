"""Labels as people bring them: every dialect of a table, every export of Label Studio, and whose
file a name means.
"""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from helpers import by_name, matched
from hypothesis import given, settings
from hypothesis import strategies as st

from pt4al.errors import Refused
from pt4al.own import labels
from pt4al.own.folder import Tree

TWO = {'a.png': ('cat',), 'b.png': ('dog',)}


def read(folder: Path, text: str | bytes) -> dict[str, labels.Answer]:
    (folder / 'labels').write_bytes(text if isinstance(text, bytes) else text.encode())
    return by_name(labels.read_labels(folder / 'labels'))


def composed(text: str) -> str:
    return unicodedata.normalize('NFC', text.strip()).strip()


def test_text_is_one_line_that_controls_no_terminal_and_of_one_form():
    text = labels.printable('a\x1b[31m\nab\u202e')
    assert text == 'a\ufffd[31m\ufffdab\ufffd'
    assert labels.parsed('e\u0301') == labels.parsed('["\u00e9"]') == ('\u00e9',)


def test_classes_that_a_person_takes_for_one_are_found():
    classes = ('Cat', 'black cat', 'black\xa0cat', 'cat', 'cat\u200b', 'dog')
    assert labels.alike(classes) == list(classes[:5])


def test_classes_that_may_be_no_label_or_several_are_found():
    empty = ('#N/A', '-', '--', '?', 'N/A', 'NaN', 'na', 'none', 'null', '—')
    several = ('cat, dog', 'cat; dog', 'cat;dog')
    fine = ('(;', '+', '0', 'a-b', 'banana', 'cat, ', 'nano', 'none of these', 'x.y')
    none, two = labels.doubts((*empty, *fine, *several))
    assert none.startswith(
        f'classes that may mean no label: {labels.listed(empty)}; empty the cells'
    )
    assert two.startswith(
        f'classes that may be several labels: {labels.listed(several)}; write several'
    )
    assert labels.doubts(fine) == []


# --- tables ---


@pytest.mark.parametrize(
    'text',
    [
        'path;label\na.png;cat\nb.png;dog\n',
        'path\tlabel\na.png\tcat\nb.png\tdog\n',
        'path, label\n"a.png", "cat"\n"b.png", "dog"\n',
        'filename,class\na.png,cat\nb.png,dog\n',
        'Image_Path,Category\na.png,cat\nb.png,dog\n',
        'path,image,label\na.png,/data/upload/3/x,cat\nb.png,,dog\n',
        'path,label,choice\na.png,,cat\nb.png,,dog\n',
        'path,label,class\na.png,cat,\nb.png,?,dog\n',
        'path;label;note\na.png;cat;"x, y, z"\nb.png;dog;"a, b, c"\n',
        'path,label\ra.png,cat\rb.png,dog\r',
        'path,label,note\r\na.png,cat,"x\ry"\r\nb.png,dog,,\r\n',
        'path,label\na.png,cat\nb.png,dog\n'.encode('utf-16'),
        'path\tlabel\r\na.png\tcat\r\nb.png\tdog\r\n'.encode('utf-16'),
        # as Label Studio exports it
        'annotation_id,annotator,choice,created_at,id,image,lead_time,path\n'
        '1,1,cat,2026,1,/data/local-files/?d=p/a.png,3,a.png\n'
        '2,1,"{""choices"": [""dog""]}",2026,2,/data/local-files/?d=p/b.png,3,b.png\n',
    ],
)
def test_every_dialect_of_a_table_gives_the_same_labels(tmp_path, text):
    assert read(tmp_path, text) == TWO


def test_several_labels_and_cannot_tell_are_answers_and_come_back_from_a_cell(tmp_path):
    text = 'path,label\na,"[""cat"", ""dog""]"\nb,?\nc,cannot tell\nd,cat\ne,\n'
    assert read(tmp_path, text) == {'a': ('cat', 'dog'), 'b': (), 'c': (), 'd': ('cat',)}


def test_a_blank_within_quotes_takes_none_from_a_name(tmp_path):
    text = 'path,label\n a.png,"[""ant"", ""leaf""]"\n b.png,cat\n'
    assert read(tmp_path, text) == {' a.png': ('ant', 'leaf'), ' b.png': ('cat',)}


@given(st.lists(st.text(st.characters(codec='utf-8')).map(composed).filter(bool), unique=True))
@settings(max_examples=100, deadline=None)
def test_an_answer_written_to_a_cell_is_read_back(answer):
    assert labels.parsed(labels.cell(tuple(answer))) == tuple(answer)


@pytest.mark.parametrize('name', ['a;=1+1.png', 'a;"=1+1".png', 'a\t@x.png', 'a\n=1.png', ';-1'])
def test_a_name_is_no_formula_wherever_a_spreadsheet_cuts_it(name):
    cell = labels.escape_formula(name)
    for mark in ';\t\n':
        parts = [part.strip(' "') for part in cell.split(mark)]
        assert not [part for part in parts if part.startswith(('=', '+', '-', '@'))]
    assert labels.unescape_formula(cell) == name


@pytest.mark.parametrize(
    'text, message',
    [
        ('path,label\na,"[{""x"": 1, ""rectanglelabels"": [""a""]}]"\n', 'holds boxes or shapes'),
        (json.dumps([{'path': 'a', 'choice': '\ud800'}]), 'cannot be written'),
        (json.dumps([{'path': 'a', 'choice': 'x\0'}]), 'cannot be written'),
        (
            'path,label\na,"cat\ndog"\n',
            r"cannot be written to a file in the label 'cat.+ndog' of 'a': type it",
        ),
        ('path,label\na,cat\x1b[31m\n', 'cannot be written'),
        (
            json.dumps(
                [
                    {
                        'data': {'path': 'a'},
                        'annotations': [{'result': [{'type': 'rectanglelabels', 'value': {}}]}],
                    }
                ]
            ),
            'holds boxes or shapes, not labels of whole images: export a project of choices',
        ),
        (json.dumps([{'path': 'a', 'label': [{'x': 1}]}]), 'holds boxes or shapes'),
        ('path,label\na,"[cat, dog]"\n', r"holds '\[cat, dog\]', no list: write"),
        ('path,label\na,cat, brown\n', 'has more cells in line 2 .*: name that column'),
        ('path,label,class\na,cat,dog\n', "two labels of 'a', 'cat' and 'dog': keep one"),
        ('path,label\n,cat\n', 'has no path in line 2: remove this line or give it a path'),
        ('path,label\na,?\n', 'holds no label, only .: fill the column label'),
        ('path,label,kind\na,,cat\n', 'holds no label: fill the column label'),
        ('path,label,Label\na,cat,cat\n', "has more than one column 'Label': rename one"),
        ('sep=;\npath;label\na;cat\n', 'begins with a line "sep=": remove this line'),
        (b'PK\3\4\x14\xd0', 'it is not UTF-8: save it as "CSV UTF-8"'),
        # an editor put it behind the first half of the line's end
        ('path,label\r\na,\rcat\r\n', 'is no CSV .new-line character .*, line 2.: save it'),
    ],
)
def test_what_is_not_a_label_is_refused_for_what_it_is(tmp_path, text, message):
    with pytest.raises(Refused, match=message) as refusal:
        read(tmp_path, text)
    assert '\n' not in str(refusal.value)


def test_a_pipe_and_a_device_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'labels.csv')
    for path in (tmp_path / 'labels.csv', Path('/dev/zero')):
        with pytest.raises(Refused, match='is a pipe or a device: give a file'):
            labels.read_labels(path)


# --- Label Studio ---


def done(image: str, *choices: str, **more: object) -> dict[str, object]:
    result = [{'type': 'choices', 'value': {'choices': list(choices)}}]
    return {'data': {'image': image}, 'annotations': [{'result': result, **more}]}


def test_exports_of_label_studio_are_read_as_it_writes_them(tmp_path):
    tasks = [
        done('/data/local-files/?d=photos/anchor/a%20b.jpg', 'cat'),
        done('/data/upload/3/8fa2b1c3-c.jpg', 'dog', 'cat'),
        done('/data/local-files/?d=photos/skipped.jpg', was_cancelled=True),
        {'data': {'image': '/data/local-files/?d=photos/open.jpg'}, 'annotations': []},
    ]
    answers = read(tmp_path, json.dumps(tasks))
    assert answers == {
        'photos/anchor/a b.jpg': ('cat',),
        '/data/upload/3/8fa2b1c3-c.jpg': ('dog', 'cat'),
        'photos/skipped.jpg': (),
    }
    least = [{'img': '/data/upload/3/8fa2b1c3-c.jpg', 'choice': {'choices': ['dog', 'cat']}}]
    assert read(tmp_path, json.dumps(least)) == {'/data/upload/3/8fa2b1c3-c.jpg': ('dog', 'cat')}


NAMES = ('anchor/a b.jpg', 'c.jpg', 'deep/d (1).jpg', 'é.jpg', 'two/x.jpg', 'three/x.jpg')


def tree(root: Path) -> Tree:
    return Tree(root, 8, NAMES, np.zeros((len(NAMES), 3, 8, 8), np.uint8), {}, {})


@pytest.mark.parametrize(
    'name, want',
    [
        ('anchor/a b.jpg', 0),
        ('photos/anchor/a b.jpg', 0),
        ('home/photos/anchor/a b.jpg', 0),
        ('./c.jpg', 1),
        ('anchor\\a b.jpg', 0),
        ('{root}/c.jpg', 1),
        ('/data/upload/3/8fa2b1c3-c.jpg', 1),
        ('/data/upload/3/8fa2b1c3-d_1.jpg', 2),
        (unicodedata.normalize('NFD', 'é.jpg'), 3),
        ('elsewhere/c.jpg', None),
        ('/data/upload/3/8fa2b1c3-x.jpg', None),  # there are two
        ('x.jpg', None),
        ('tow/x.jpg', None),
    ],
)
def test_a_name_means_one_image_or_none(tmp_path, name, want):
    root = tmp_path / 'home' / 'photos'
    name = name.format(root=root)
    if want is None:
        with pytest.raises(Refused, match='files that are not among .*, 1 of 1'):
            matched({name: ('cat',)}, tree(root))
    else:
        assert matched({name: ('cat',)}, tree(root)).index.tolist() == [want]


def test_a_folder_reached_by_a_link_is_the_same_folder(tmp_path):
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'c.jpg').touch()
    (tmp_path / 'link').symlink_to(tmp_path / 'photos')
    known = matched({f'{tmp_path}/link/c.jpg': ('cat',)}, tree(tmp_path / 'photos'))
    assert known.index.tolist() == [1]


def test_an_image_of_two_classes_is_an_example_of_each_and_none_of_them_alone():
    known = matched({'c.jpg': ('cat', 'dog'), 'é.jpg': ('cat',), 'two/x.jpg': ()}, tree(Path('/p')))
    assert (known.index.tolist(), known.label.tolist()) == ([1, 1, 3], [0, 1, 0])
    assert known.answers == {1: ('cat', 'dog'), 3: ('cat',), 4: ()}
    assert known.single.index.tolist() == [3]
    other = matched({'c.jpg': ('cat', 'dog'), 'é.jpg': ('cat',)}, tree(Path('/p')))
    assert known.digest != other.digest
