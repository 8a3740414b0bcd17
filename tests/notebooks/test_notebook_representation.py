"""The notebook about one trunk: its form, its numbers on 72 noise images, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from notebook_form import FORM, execute
from toys import toy

from pt4al import data, report
from pt4al.errors import Refused
from pt4al.experiments import specs

NAME = 'representation'


@pytest.fixture(autouse=True)
def toys(store_of_toys):
    # so that queries by class are not queries by index
    def of_the_last_class_first() -> data.Pair:
        return tuple(data.split(part.pixels, 2 - part.labels, part.classes) for part in toy())

    data.DATASETS['toy'] = of_the_last_class_first
    specs.DEFAULTS['toy', NAME] = {
        'width': 4,
        'epochs': 1,
        'batch': 16,
        'images': 48,
        'fractions': (50, 100),
    }
    return store_of_toys


@pytest.mark.parametrize('rule', FORM)
def test_it_has_the_form_of_all_notebooks(rule):
    rule(NAME)


@pytest.mark.parametrize('task', ['rotation', 'none'])
def test_it_answers_with_the_numbers_of_its_result(task, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(
        report, 'show', lambda figure, caption, name: shown.append((name, figure.alt))
    )
    variables = execute(NAME, dataset='toy', task=task, pretext_epochs=1)
    result, said = variables['result'], capsys.readouterr().out
    assert result.spec.pretext is None if task == 'none' else result.spec.pretext.epochs == 1
    blocks = 100 * result.tables['blocks']['accuracy']
    assert (
        f'a linear probe of the last block is right on {100 * result.summary["accuracy"]:.1f} %'
        in said
    )
    best = 'the stem' if blocks.argmax() == 0 else f'block {blocks.argmax()}'
    assert (
        f'{blocks[0]:.1f} % at the stem, {blocks.max():.1f} % at its best ({best}) and {blocks[-1]:.1f} % at'
        in said
    )
    assert [name for name, _ in shown] == ['depth', 'labels', 'invariance', 'neighbours']
    assert (
        f'{task} {blocks[0]:.3g} at stem' in shown[0][1]
        and 'another image mostly near' in shown[2][1]
    )
    near, classes = result.tables['neighbours'], variables['classes']
    rows = near['index'].reshape(3, 10)[:, :6]
    said = [
        f'{classes[variables["test"].labels[query]]}: {", ".join(classes[variables["train"].labels[i]] for i in row)}'
        for query, row in zip(near['query'][::10], rows)
    ]
    assert '; '.join(said) in shown[3][1] and np.all(near['rank'][:6] == range(1, 7))


@pytest.mark.parametrize(
    'given, message',
    [
        ({'tasks': 'none'}, "unknown parameter 'tasks': did you mean 'task'"),
        ({'task': 'rotatoin'}, "unknown task 'rotatoin': did you mean 'rotation'"),
        ({'transfer': 'cifar1'}, "unknown dataset 'cifar1'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_trained(given, message, toys):
    with pytest.raises(Refused, match=message):
        execute(NAME, dataset='toy', **given)
    assert not toys.exists()
