"""A folder of one's own: what is read of it, what is picked, that it goes on where it stopped, and
what is refused.
"""

from __future__ import annotations

import csv
import inspect
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import PHOTOS as N
from helpers import matched, picture, plant, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from notebook_form import FORM, code, execute
from papermill.translators import PythonTranslator
from typer.testing import CliRunner

import pt4al
from pt4al import data, experiments
from pt4al.cli import cli
from pt4al.data import folders
from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.experiments.specs import spec
from pt4al.own import commands, order, output, ranking, rounds, sheet
from pt4al.own import folder as folder_of
from pt4al.own import labels as labels_of
from pt4al.tasks import TASKS
from pt4al.training import fit

torch.set_num_threads(1)


def run(tmp_path: Path, **wanted) -> output.Ranking:
    return ranking.rank(
        tmp_path / 'photos',
        **(
            {
                'budget': 4,
                'cycles': 5,
                'epochs': 2,
                'features': 'rotation',
                'out': tmp_path / 'picks.csv',
            }
            | wanted
        ),
    )


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline='', encoding='utf-8') as file:
        return [
            row | {'path': labels_of.unescape_formula(row['path'])} for row in csv.DictReader(file)
        ]


# --- one round ---


def test_a_round_picks_from_the_hardest_batch_and_writes_everything_down(tmp_path, caplog):
    truth = plant(tmp_path / 'photos')
    caplog.set_level('INFO', 'pt4al')
    ranked = run(tmp_path)
    table = rows(tmp_path / 'picks.csv')
    assert {row['path'] for row in table} == set(truth) and len(table) == N
    loss = np.array([float(row['loss']) for row in table])
    assert [int(row['rank']) for row in table] == (np.argsort(np.argsort(-loss)) + 1).tolist()
    assert all(int(row['batch']) == 1 + (int(row['rank']) - 1) // (N // 5) for row in table)
    picked = [row for row in table if row['picked']]
    assert (
        table[:4] == picked
        and {row['batch'] for row in picked} == {'1'}
        and {row['picked'] for row in picked} == {'1'}
    )
    assert [row['path'] for row in picked] == ranked.names and not any(
        row['label'] for row in table
    )
    tasks = json.loads((tmp_path / 'picks.json').read_text())
    assert [one['data']['path'] for one in tasks] == ranked.names
    assert (
        ranked.names[0] in (tmp_path / 'picks.html').read_text()
        and not (tmp_path / 'picks.left-out.csv').exists()
    )
    assert sum('it goes on from there' in record.message for record in caplog.records) == 1


def test_picks_and_losses_are_those_of_the_studys_own_pipeline(tmp_path):
    plant(tmp_path / 'photos')
    ranked = run(tmp_path, seed=3)
    budget = 4
    with store.only_in(tmp_path / 'elsewhere'):
        loss = experiments.get(ranked.round.pretext).tables['images']['loss']
        assert loss.tobytes() == ranked.loss.tobytes()
        train = data.load(ranked.round.dataset)[0]
        labelled = data.split(train.pixels.numpy(), np.arange(N) % 3, ('r', 'g', 'b'))
        data.DATASETS['own-test'] = lambda: (labelled, labelled)
        try:
            arm = spec(
                'active',
                dataset='own-test',
                strategy='pt4al',
                seed=3,
                cycles=5,
                until=1,
                budget=budget,
                width=4,
                epochs=1,
                pretext=replace(ranked.round.pretext, dataset='own-test'),
            )
            assert experiments.get(arm).tables['picks']['index'].tolist() == ranked.picked.tolist()
        finally:
            del data.DATASETS['own-test']


def test_the_same_again_reads_what_is_kept_and_another_seed_differs(tmp_path, monkeypatch):
    plant(tmp_path / 'photos')
    other = run(tmp_path, seed=1)
    first = run(tmp_path)
    text = (tmp_path / 'picks.csv').read_bytes(), (tmp_path / 'picks.html').read_bytes()
    monkeypatch.setattr(fit, 'fit', lambda *_: pytest.fail('trained again'))
    assert run(tmp_path).names == first.names != other.names
    assert ((tmp_path / 'picks.csv').read_bytes(), (tmp_path / 'picks.html').read_bytes()) == text
    assert not list(tmp_path.rglob('*.part')) and 'PT4AL_RESULTS' not in os.environ


def test_an_interrupted_run_goes_on_to_identical_picks(tmp_path, monkeypatch):
    plant(tmp_path / 'photos')
    entire, save, saves = run(tmp_path, keep=tmp_path / 'whole'), fit._save, []

    def once(path, *rest):
        save(path, *rest)
        saves.append(path)
        if len(saves) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit, '_save', once)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, out=tmp_path / 'again.csv')
    assert not (tmp_path / 'again.csv').exists()
    again = run(tmp_path, out=tmp_path / 'again.csv')
    # one epoch each
    assert (
        again.loss.tobytes() == entire.loss.tobytes()
        and again.names == entire.names
        and len(saves) == 2
    )
    assert (tmp_path / 'again.csv').read_bytes() == (tmp_path / 'picks.csv').read_bytes()


# --- the next round ---


def test_the_next_round_learns_from_labels_and_never_proposes_a_labelled_image(tmp_path):
    truth = plant(tmp_path / 'photos')
    first = run(tmp_path)
    hardest = [name for _, name in sorted(zip(first.rank, first.tree.names))]
    names = first.names + hardest[8:12]  # of batch 2, labelled by other means
    second = run(
        tmp_path,
        labels=written(tmp_path / 'labels.csv', truth, names),
        cycle=2,
        out=tmp_path / 'second.csv',
    )
    assert not set(second.names) & set(names) and set(second.names) == set(hardest[12:16])
    table = rows(tmp_path / 'second.csv')
    assert {row['path']: row['label'] for row in table if row['label']} == {
        name: truth[name] for name in names
    }
    assert {row['picked'] for row in table[:4]} == {'2'}


def test_order_and_form_of_the_labels_do_not_matter(tmp_path):
    truth = plant(tmp_path / 'photos')
    names = run(tmp_path).names + sorted(truth)[:3]
    wanted = {'cycle': 3, 'strategy': 'margin'}
    picks = run(tmp_path, labels=written(tmp_path / 'a.csv', truth, names), **wanted).names
    exported = [
        {
            'data': {'path': name},
            'annotations': [{'result': [{'type': 'choices', 'value': {'choices': [truth[name]]}}]}],
        }
        for name in names[::-1]
    ]
    (tmp_path / 'b.json').write_text(json.dumps(exported))
    assert (
        run(tmp_path, labels=tmp_path / 'b.json', keep=tmp_path / 'fresh', **wanted).names == picks
    )
    absolute = {str(tmp_path / 'photos' / name): (truth[name],) for name in names}
    ranked = matched(absolute, folder_of.read(tmp_path / 'photos', 16))
    assert (
        ranked.digest
        == matched(
            {name: (truth[name],) for name in names}, folder_of.read(tmp_path / 'photos', 16)
        ).digest
    )
    swapped = {name: (truth[name],) for name in names} | {names[0]: ('other',)}
    assert matched(swapped, folder_of.read(tmp_path / 'photos', 16)).digest != ranked.digest


@pytest.mark.parametrize(
    'strategy', ['random', 'typiclust', 'probcover', 'badge', 'pt4al_random', 'entropy']
)
def test_any_registered_strategy_picks_a_next_round(tmp_path, strategy):
    truth = plant(tmp_path / 'photos')
    names = sorted(truth)[:8]
    ranked = run(
        tmp_path,
        strategy=strategy,
        labels=written(tmp_path / 'l.csv', truth, names),
        cycle=2,
        epochs=1,
    )
    assert len(set(ranked.names)) == 4 and not set(ranked.names) & set(names)


@pytest.mark.parametrize(
    'task', [name for name in TASKS if not {':', 'pirl', 'audio_visual'} & {name, *name}]
)
def test_any_pretext_task_gives_features_that_learn_from_labels(tmp_path, task):
    truth = plant(tmp_path / 'photos')
    known = written(tmp_path / 'l.csv', truth, sorted(truth)[:8])
    more = {'strategy': 'margin', 'labels': known, 'cycle': 2, 'finetune': True}
    ranked = run(tmp_path, features=task, epochs=1, **more)
    assert len(ranked.loss) == N and 'margin' in ranked.reasons[0]


@pytest.mark.parametrize(
    'wanted, message',
    [
        ({'strategy': 'pt4a'}, "unknown strategy 'pt4a': did you mean 'pt4al'"),
        ({'features': 'rotatoin'}, "unknown features 'rotatoin': did you mean 'rotation'"),
        (
            {'budget': 9},
            'budget 9 is above the 8 images of a batch .*: lower it, or give fewer --cycles',
        ),
        ({'budget': 41, 'strategy': 'random'}, 'above the 40 images'),
        ({'cycles': 41}, '41 batches of 40 images'),
        ({'budget': 0}, 'budget is 0: it must be at least 1'),
        ({'cycle': 0}, 'cycle is 0: it must be at least 1'),
        ({'cycle': 6}, 'cycle is 6: it must lie between 1 and cycles = 5'),
        ({'cycle': 2}, 'needs labels of two classes, and there are 0 of 0'),
        ({'cycle': 3, 'strategy': 'random'}, 'no labels: give --labels, or leave out --cycle'),
        ({'strategy': 'class_matched'}, 'needs oracle_labels, which'),
        ({'strategy': 'probcover'}, 'cycle 1 of probcover needs labels of two classes'),
        ({'out': 'picks.txt'}, 'name the table to write'),
        ({'out': 'nowhere/picks.csv'}, "'nowhere' is not a folder"),
        ({'labels': {'a/000.png': 'x'}}, 'say which round this is'),
        (
            {'labels': {'a/000.png': 'x', 'b/001.png': 'x'}, 'cycle': 2},
            'needs labels of two classes, and there are 2 of 1',
        ),
        (
            {'labels': {'c.png': 'x', 'a/000.png': 'y'}, 'cycle': 2},
            "l.csv' has labels of files that are not .*, 1 of 2: 'c.png'; restore",
        ),
        ({'labels': {'cut.png': 'x'}, 'cycle': 2}, "'cut.png' cannot be read"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line_before_any_training(
    tmp_path, wanted, message, monkeypatch
):
    plant(tmp_path / 'photos')
    (tmp_path / 'photos' / 'cut.png').write_bytes(b'')
    if 'labels' in wanted:
        names = wanted['labels']
        sheet.write_csv(tmp_path / 'l.csv', {'path': list(names), 'label': list(names.values())})
        wanted = wanted | {'labels': tmp_path / 'l.csv'}
    monkeypatch.setattr(fit, 'fit', lambda *_, **__: pytest.fail('trained'))
    with pytest.raises(Refused, match=message) as refusal:
        run(tmp_path, **wanted)
    assert '\n' not in str(refusal.value) and not (tmp_path / 'picks.csv').exists()


def test_a_tree_without_classes_trains_no_classifier(tmp_path):
    plant(tmp_path / 'photos')
    with (
        store.only_in(tmp_path / 'r'),
        pytest.raises(Refused, match='has no labels: only a pretext task'),
    ):
        experiments.get(spec('main', dataset=f'unlabelled:{tmp_path}/photos?size=16'))


# --- files from anywhere ---


def test_names_from_anywhere_survive_the_whole_round(tmp_path):
    truth = plant(tmp_path / 'photos', 20)
    for number, name in enumerate(
        ['=1+1.png', "'=1+1.png", 'a,"b.png', 'a\nb.png', '<b>&.png', '@x/+y.png', 'ü.png'], 100
    ):
        (tmp_path / 'photos' / name).parent.mkdir(exist_ok=True)
        picture(number, number % 3).save(tmp_path / 'photos' / name)
        truth[name] = '=rgb'[number % 3 + 1]
    picked = run(tmp_path, strategy='random', budget=27, cycles=1, epochs=1)
    table = [row | {'label': truth[row['path']]} for row in rows(tmp_path / 'picks.csv')]
    assert {row['path'] for row in table} == set(truth)
    sheet.write_csv(
        tmp_path / 'labels.csv', {head: [row[head] for row in table] for head in table[0]}
    )
    known = labels_of.match(labels_of.read_labels(tmp_path / 'labels.csv'), picked.tree)
    assert [known.classes[code] for code in known.label] == [
        truth[name] for name in picked.tree.names
    ]
    assert '<b>&.png' not in (tmp_path / 'picks.html').read_text()
    by_hand = matched({'@x/+y.png': 'a', 'ü.png': 'b'}, picked.tree)
    assert {picked.tree.names[i] for i in by_hand.index} == {'@x/+y.png', 'ü.png'}
    # with a guard, or without?
    with pytest.raises(Refused, match="several images have this name, '=1.1.png', .*: write its"):
        matched({'=1+1.png': 'a'}, picked.tree)
    (one,) = matched({f'{tmp_path}/photos/=1+1.png': 'a'}, picked.tree).index
    assert picked.tree.names[one] == '=1+1.png'


def test_what_is_no_image_is_listed_and_links_are_not_followed(tmp_path):
    root = tmp_path / 'photos'
    plant(root, 12)
    plant(tmp_path / 'outside', 2)
    (root / 'out').symlink_to(tmp_path / 'outside')
    (root / 'loop').symlink_to(root)
    (root / 'one.png').symlink_to(root / 'a' / '000.png')
    (root / 'notes.txt').write_text('x')
    (root / '.hidden.png').write_bytes(b'')
    (root / 'empty.png').write_bytes(b'')
    os.mkfifo(root / 'pipe.png')
    (root / os.fsdecode(b'\xff.png')).write_bytes((root / 'a' / '000.png').read_bytes())
    picture(50).save(root / 'jpeg.png', 'JPEG')
    picture(51).save(root / 'film.gif', save_all=True, append_images=[picture(52)])
    ranked = run(tmp_path, budget=2, cycles=2, epochs=1)
    assert len(ranked.tree.names) == 14
    why = {row['path']: row['why'] for row in rows(tmp_path / 'picks.left-out.csv')}
    assert {name: words.split(':')[0] for name, words in why.items()} == {
        'out': 'is a link, and links are not followed',
        'loop': 'is a link, and links are not followed',
        'one.png': 'is a link, and links are not followed',
        'notes.txt': 'is no image by its name',
        'empty.png': 'cannot be read',
        'pipe.png': 'is no file',
        '\ufffd.png': 'its name is not UTF-8',
        'jpeg.png': 'its content is JPEG',
        'film.gif': 'only its first frame is read',
    }
    assert 'pipe.png' in (tmp_path / 'picks.html').read_text()


def test_too_many_damaged_images_are_refused_with_a_list_to_repair_them_by(tmp_path):
    plant(tmp_path / 'photos', 20)
    for number in range(4):
        (tmp_path / 'photos' / f'{number}.png').write_bytes(b'GIF89a')
    with pytest.raises(
        Refused, match='4 of 24 images cannot be read, picks.left-out.csv lists them'
    ):
        run(tmp_path)
    assert [row['path'] for row in rows(tmp_path / 'picks.left-out.csv')] == [
        f'{number}.png' for number in range(4)
    ]
    for folder, message in (
        (tmp_path / 'none', 'is not a folder'),
        (tmp_path / 'photo', "is not a folder.*; the nearest name is 'photos'"),
        (tmp_path / 'empty', 'holds no images.*; left out: 1 is HEIC, which is not read'),
    ):
        (tmp_path / 'empty').mkdir(exist_ok=True)
        (tmp_path / 'empty' / 'a.heic').touch()
        with pytest.raises(Refused, match=message):
            ranking.rank(folder, features='rotation', out=tmp_path / 'picks.csv')


def encoded(form: str) -> bytes:
    content = io.BytesIO()
    frames = (
        {'save_all': True, 'append_images': [picture(1)]} if form in ('GIF', 'TIFF', 'WEBP') else {}
    )
    picture(0).save(content, form, **frames)
    return content.getvalue()


WHOLE = {form: encoded(form) for form in folders.FORMATS}
damage = st.tuples(
    st.sampled_from(sorted(WHOLE)),
    st.sampled_from(sorted(folders.SUFFIXES)),
    st.floats(0, 1),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4),
)


def damaged(form: str, cut: float, changed: list[tuple[float, int]]) -> bytes:
    content = bytearray(WHOLE[form])
    for place, value in changed:
        content[int(place * len(content))] = value
    return bytes(content[: round(cut * len(content))])


@given(st.lists(damage, min_size=1, max_size=12))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_damaged_files_of_every_format_are_read_or_reported_and_never_crash(
    tmp_path_factory, files
):
    root = tmp_path_factory.mktemp('fuzz')
    picture(0).save(root / 'fine.png')
    for number, (form, suffix, cut, changed) in enumerate(files):
        (root / f'{number}{suffix}').write_bytes(damaged(form, cut, changed))
    tree = folder_of.read(root, 16)
    assert len(tree.pixels) == len(tree.names) and 'fine.png' in tree.names
    assert set(tree.names) | set(tree.left_out) == {path.name for path in root.iterdir()}
    assert not set(tree.names) & set(tree.left_out) and set(tree.odd) <= set(tree.names)
    assert (
        tree.pixels[tree.names.index('fine.png')].tolist()
        == np.asarray(picture(0)).transpose(2, 0, 1).tolist()
    )
    why = tree.left_out | tree.odd
    sheet.write_csv(root / 'report.csv', {'path': list(why), 'why': list(why.values())})
    assert {row['path'] for row in rows(root / 'report.csv')} == set(tree.left_out | tree.odd)


def test_a_folder_that_grows_is_read_again(tmp_path):
    plant(tmp_path / 'photos', 20)
    before = run(tmp_path, budget=2, epochs=1)
    picture(70).save(tmp_path / 'photos' / 'new.png')
    after = run(tmp_path, budget=2, epochs=1)
    assert (len(before.tree.names), len(after.tree.names)) == (20, 21) and len(after.loss) == 21


# --- near duplicates, defaults, exports ---


def test_nearest_neighbours_are_those_of_all_distances_and_copies_are_flagged():
    x = np.random.default_rng(0).standard_normal((60, 8))
    x[7], x[20] = x[3], x[9] + 0.01
    index, gap = rounds.nearest(torch.tensor(x))
    unit = (x - x.mean(0)) / x.std(0, ddof=1)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    distance = np.linalg.norm(unit[:, None] - unit, axis=2) + 9 * np.eye(60)
    assert index.tolist() == distance.argmin(1).tolist()
    np.testing.assert_allclose(gap, distance.min(1), atol=1e-7)
    assert rounds.near_duplicates(index, gap).tolist() == [[3, 7], [9, 20]]


def test_copies_of_an_image_are_near_duplicates_on_the_contact_sheet(tmp_path):
    plant(tmp_path / 'photos', 30)
    picture(5, 2).save(tmp_path / 'photos' / 'copy.png')
    ranked = run(tmp_path, epochs=1)
    assert {'b/005.png', 'copy.png'} in [
        {ranked.tree.names[i] for i in pair} for pair in ranked.duplicates
    ]
    assert f'{len(ranked.duplicates)} pairs' in (tmp_path / 'picks.html').read_text()


@pytest.mark.parametrize(
    'images, task, passes',
    [
        (400, 'rotation', 50),
        (4000, 'rotation', 16),
        (20_000, 'rotation', 5),
        (4000, 'simclr', 32),
        (4000, 'jigsaw', 64),
        (60, 'jigsaw', 200),
    ],
)
def test_passes_fall_with_the_number_of_images_and_rise_for_cheap_tasks(
    tmp_path, images, task, passes
):
    tree = folder_of.Tree(tmp_path, 32, tuple(map(str, range(images))), np.zeros(0), {}, {})
    s = order.pretext_spec(tree, task, 0, None)
    assert (s.epochs, s.milestones) == (passes, (3 * passes // 4,)) and order.pretext_spec(
        tree, task, 0, 7
    ).epochs == 7


def test_the_last_line_names_the_options_of_the_next_round(tmp_path, monkeypatch):
    plant(tmp_path / 'my photos', 12)
    monkeypatch.chdir(tmp_path)
    options = ['--budget', '2', '--features', 'rotation', '--epochs', '1', '--cycles', '2']
    done = CliRunner().invoke(cli, ['rank', 'my photos', *options, '--out', 'a b.csv'])
    assert done.exit_code == 0, done.output
    *_, line = done.output.strip().splitlines()
    assert line.startswith('Fill the column label of a b.csv')
    assert line.endswith("run the same again with --labels 'a b.csv' --cycle 2")


@pytest.mark.parametrize('command', ['rank', 'advise'])
def test_two_files_of_labels_are_refused(command):
    done = CliRunner().invoke(cli, [command, 'photos', '--labels', 'a.csv', '--labels', 'b.csv'])
    assert isinstance(done.exception, Refused) and 'more than once: put all' in str(done.exception)


def test_a_folder_of_one_picture_many_times_is_all_duplicates(recwarn):
    x = torch.ones(9, 4)
    index, gap = rounds.nearest(x)
    assert gap.max() < 1e-3 and len(rounds.near_duplicates(index, gap)) >= 5
    assert rounds.plane(x).tolist() == [[0.5, 0.5]] * 9 and not recwarn.list


# --- the notebook ---


@pytest.mark.parametrize('rule', [FORM[0], FORM[-1]])
def test_the_notebook_has_the_form_of_all_notebooks(rule):
    rule('own_images')


def test_command_notebook_and_function_have_the_same_options():
    wanted = set(inspect.signature(ranking.rank).parameters)
    assert set(inspect.signature(commands.rank).parameters) == wanted
    # as papermill reads them: an = in a comment hides a parameter from it
    offered = PythonTranslator().inspect({'source': code('own_images')[0].source})
    assert {one.name for one in offered} == wanted - {'keep'}
    for name in ('folder', 'labels', 'features', 'seed', 'epochs', 'keep'):
        assert name in inspect.signature(commands.advise).parameters


def test_the_notebook_shows_the_picks_and_the_advice(tmp_path, capsys, monkeypatch):
    truth = plant(tmp_path / 'photos', 48)
    labels, shown = written(tmp_path / 'l.csv', truth, sorted(truth)[:42]), []
    for name, value in {'DRAWS': 1, 'REPEATS': 2}.items():
        monkeypatch.setattr(f'pt4al.own.advice.{name}', value)
    monkeypatch.setattr(
        'pt4al.report.show', lambda figure, caption, name: shown.append((name, figure.alt))
    )
    variables = execute(
        'own_images',
        folder=str(tmp_path / 'photos'),
        out=str(tmp_path / 'picks.csv'),
        budget=3,
        cycles=2,
        cycle=2,
        labels=str(labels),
        epochs=1,
        features='rotation',
        strategy='margin',
        finetune=True,
    )
    ranked, printed = variables['found'], capsys.readouterr().out
    assert [name for name, _ in shown] == ['losses', 'ends', 'picks'] and shown[2][1] == ', '.join(
        ranked.names
    )
    assert '48 images, 42 of them labelled' in printed and all(
        sentence in printed for sentence in variables['advice'].sentences
    )
    assert 'Label the 3 images of picks.csv next, picked by margin in cycle 2.' in printed
    assert ranked.round.finetune


@pytest.mark.parametrize(
    'wanted, message',
    [
        ({}, 'no result without images: give -p folder PATH'),
        ({'foldr': 'x'}, "unknown parameter 'foldr': did you mean 'folder'"),
    ],
)
def test_the_notebook_refuses_what_it_cannot_use(wanted, message):
    with pytest.raises(Refused, match=message):
        execute('own_images', **wanted)


def test_the_package_offers_both_functions_without_importing_torch():
    from pt4al.own import advice

    assert pt4al.rank is ranking.rank and pt4al.advise is advice.advise
    with pytest.raises(AttributeError, match="no attribute 'rnak'"):
        _ = pt4al.rnak
