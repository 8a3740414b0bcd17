"""Benchmarks: what is counted, written and left out; no test looks at how long anything took."""
from __future__ import annotations

import inspect
import json
import re
from functools import partial

import numpy as np
import pytest
import torch
from test_cli import command, refused  # noqa: F401  `pt4al words...` in this process
from test_experiments import store_of_toys, toy  # noqa: F401  registers 72 noise images of three classes

from pt4al import bench, data, store
from pt4al.errors import Refused
from pt4al.execution import execution
from pt4al.tasks import TASKS, patches
from pt4al.tasks.base import Task

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def larger(store_of_toys, monkeypatch):  # noqa: F811
    """Two data sets of 144 images, one with sound."""
    def twice(sound: bool) -> data.Pair:
        stills = toy()[0]
        pixels = np.concatenate([stills.pixels] * 2)
        pixels = np.concatenate([pixels, pixels[:, :1]], 1) if sound else pixels
        return (data.split(pixels, np.concatenate([stills.labels] * 2), stills.classes),) * 2
    data.DATASETS |= {'larger': lambda: twice(False), 'heard': lambda: twice(True)}
    monkeypatch.setattr(bench, 'ELSEWHERE', {'audio_visual': 'heard'})


# -- turns -------------------------------------------------------------------------------------------------------------

def test_alternatives_run_in_turns_and_the_first_turn_does_not_count():
    calls = []
    seconds = bench.interleaved({name: lambda name=name: calls.append(name) for name in 'abc'}, 4)
    assert ''.join(calls) == 'abc' * 5
    assert {name: len(values) for name, values in seconds.items()} == {'a': 4, 'b': 4, 'c': 4}
    assert all(value >= 0 for values in seconds.values() for value in values)


# -- lines of code -----------------------------------------------------------------------------------------------------

SOURCE = '''
    @decorated
    class Counted(Base):
        """A docstring

        of three lines."""

        # a comment
        text: str = """no docstring
        # and no comment"""            # a comment at the end

        def method(self):
            """One line."""

            return (1 +

                    2)

        def documented(self):
            """Only this."""
'''


def test_lines_hold_code_and_no_comment_blank_line_or_docstring():
    # decorator, class, the first line of the text, for the other starts as a comment does, two defs, a return in two
    assert bench._code(SOURCE) == 7
    assert bench._code('class A:\n    pass\n') == 2 and bench._code('class A:\n    """Doc."""\n') == 1


def test_a_task_is_counted_with_what_it_inherits_but_for_the_interface():
    own, base = (bench._code(inspect.getsource(kind)) for kind in (patches.Jigsaw, patches.Tiles))
    assert bench._lines(patches.Jigsaw) == own + base > own > 0 and bench._lines(Task) == 0


# -- tasks -------------------------------------------------------------------------------------------------------------

def test_the_tasks_in_their_usual_form_are_those_without_a_variant():
    assert {'rotation', 'pirl', 'audio_visual'} <= set(bench.USUAL) < set(TASKS)
    assert not [name for name in bench.USUAL if ':' in name]
    assert {name.partition(':')[0] for name in TASKS} == set(bench.USUAL)


def test_a_benchmark_compares_with_rotation_and_tells_what_it_left_out(monkeypatch):
    seconds = {'rotation': [2., 1., 4.], 'jigsaw': [.5, .25, 1.], 'audio_visual': [1., 1., 1.]}
    steps = {}

    def measured(runs, rounds):
        steps.update(runs)
        assert rounds == 3
        return {name: seconds[name] for name in runs}
    monkeypatch.setattr(bench, 'interleaved', measured)
    found = bench.tasks(('jigsaw', 'pirl', 'jigsaw', 'audio_visual'), 'larger', width=4, images=16, rounds=3)
    assert list(steps) == ['rotation', 'jigsaw', 'audio_visual']
    rows = [(row['task'], row['images_per_second'], row['ratio_to_rotation'], row['dataset']) for row in found['rows']]
    assert rows == [('rotation', 8, 1, 'larger'), ('jigsaw', 32, 4, 'larger'), ('audio_visual', 16, 2, 'heard')]
    assert [row['lines'] for row in found['rows']] == [bench._lines(type(TASKS[name]())) for name in steps]
    assert list(found['left_out']) == ['pirl']
    assert '1024 negatives, but there are 144 images' in found['left_out']['pirl']
    assert (found['dataset'], found['width'], found['images'], found['rounds']) == ('larger', 4, 16, 3)
    assert found['what'] == 'training images per second of CPU time'
    assert {'commit', 'chip', 'threads', 'precision', 'torch'} <= found.keys()


def test_a_task_without_its_sound_is_left_out(monkeypatch):
    monkeypatch.setattr(bench, 'ELSEWHERE', {})
    monkeypatch.setattr(bench, 'interleaved', lambda runs, rounds: {name: [1.] for name in runs})
    assert 'have no sound' in bench.tasks(('audio_visual',), 'larger', 4, 16, 1)['left_out']['audio_visual']


@pytest.mark.parametrize('name', ['rotation', 'pirl:negatives=64', 'context_encoder'])
def test_a_step_trains_the_network_on_the_batch(name, monkeypatch):
    shown, made = [], type(TASKS[name]()).make_batch

    def noted(self, pixels, index, rng):
        shown.append((pixels, index.tolist()))
        return made(self, pixels, index, rng)
    monkeypatch.setattr(type(TASKS[name]()), 'make_batch', noted)
    step = bench._step(name, 'larger', 4, 8, execution())
    model = inspect.getclosurevars(step).nonlocals['model']
    before = [weight.clone() for weight in model.parameters()]
    shown.clear()
    step()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters())) and model.training
    (pixels, index), = shown
    assert np.array_equal(pixels, data.arrays('larger')[0].pixels[:8]) and index == list(range(8))
    if name.startswith('pirl'):
        assert len(model.head.memory) == 144                 # of all images, not of the batch


@pytest.mark.parametrize('given, message', [
    ({'dataset': 'toy'}, 'a batch of 128 images, but toy has 72: give fewer'),
    ({'names': ('rotatoin',), 'dataset': 'larger'}, "unknown task 'rotatoin': did you mean 'rotation'"),
    ({'dataset': 'cifar1'}, "unknown dataset 'cifar1'"),
])
def test_what_cannot_be_measured_is_refused(given, message, monkeypatch):
    monkeypatch.setattr(bench, 'interleaved', lambda *_: pytest.fail('measured'))
    with pytest.raises(Refused, match=message):
        bench.tasks(width=4, **given)


# -- keeping -----------------------------------------------------------------------------------------------------------

def test_what_is_kept_is_read_again_and_no_part_of_it_stays(store_of_toys):  # noqa: F811
    assert bench.kept('tasks') is None
    for content in ({'rows': [{'task': 'a', 'ratio': .1}], 'what': 'é'}, {'rows': []}):
        assert bench.keep('tasks', content) == store_of_toys / 'bench' / 'tasks.json'
        assert bench.kept('tasks') == content and bench.kept('queries') is None
    assert [path.name for path in (store_of_toys / 'bench').iterdir()] == ['tasks.json']
    assert store.find('*') == []                             # it is no result and does not look like a damaged one


def test_the_first_store_that_has_a_benchmark_is_read(store_of_toys, tmp_path, monkeypatch):  # noqa: F811
    bench.keep('tasks', {'rows': [1]})
    monkeypatch.setenv('PT4AL_RESULTS', f'{tmp_path / "fresh"}:{store_of_toys}')
    assert bench.kept('tasks') == {'rows': [1]}
    assert bench.keep('tasks', {'rows': [2]}).is_relative_to(tmp_path / 'fresh')
    assert bench.kept('tasks') == {'rows': [2]}


def test_content_that_cannot_be_written_leaves_what_was_kept(store_of_toys, tmp_path, monkeypatch):  # noqa: F811
    bench.keep('tasks', {'rows': [1]})
    with pytest.raises(TypeError):
        bench.keep('tasks', {'rows': [2], 'bad': object()})
    assert bench.kept('tasks') == {'rows': [1]}
    (tmp_path / 'file').touch()
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'file'))
    with pytest.raises(Refused, match=r'cannot write .*tasks\.json .*: set PT4AL_RESULTS'):
        bench.keep('tasks', {})


# -- the command -------------------------------------------------------------------------------------------------------

def test_the_command_measures_all_usual_tasks_and_keeps_them(command, store_of_toys, monkeypatch):  # noqa: F811
    monkeypatch.setattr(bench, 'tasks', partial(bench.tasks, images=8))
    code, printed, _ = command('bench', '--dataset', 'larger', '--width', '2', '--rounds', '1')
    kept = json.loads((store_of_toys / 'bench' / 'tasks.json').read_text())
    title, head, *lines, path = printed.splitlines()
    assert not code and path == str(store_of_toys / 'bench' / 'tasks.json') and title.startswith(kept['what'])
    assert [row['task'] for row in kept['rows']] == [name for name in bench.USUAL if name != 'pirl']
    assert [line.split() for line in lines[:-1]] == [
        [row['task'], f'{row["images_per_second"]:.1f}', f'{row["ratio_to_rotation"]:.2f}', str(row['lines']),
         row['dataset']] for row in kept['rows']]
    assert re.fullmatch('pirl +left out: pirl draws 1024 negatives, .*', lines[-1]) and head.split()[-1] == 'on'


@pytest.mark.parametrize('words, message', [
    ('bench --dataset cifar1', "unknown dataset 'cifar1': did you mean 'cifar10'"),
    ('bench --width 0', 'width is 0, rounds is 5: both must be at least 1'),
    ('bench --rounds 0', 'width is 16, rounds is 0: both must be at least 1'),
])
def test_a_command_that_makes_no_sense_is_refused(command, words, message):  # noqa: F811
    refused(command(*words.split()), message)
