"""A round trip with the real Label Studio on loopback, as the chapter describes it.

Skipped where no `label-studio` is on PATH: `pip install label-studio` into an environment of its
own, for its pins are not ours (last run against 1.23.2).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from helpers import ROOT, by_name, picture, plant

from pt4al.errors import Refused
from pt4al.own import labels, ranking

PROGRAM = shutil.which('label-studio')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason='no label-studio on PATH'),
]
NAMES = ('a b.png', 'deep/d (1).png', 'é.png', '50%.png', 'a#b.png', 'two/x+y.png', "it's.png")
TOKEN = '0123456789abcdef0123456789abcdef01234567'
CHOICES = """<View><Image name="image" value="$image"/><Choices name="choice" toName="image"
  choice="{}"><Choice value="r"/><Choice value="g"/><Choice value="b"/></Choices></View>"""
BOXES = """<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image">
  <Label value="r"/></RectangleLabels></View>"""
Call = Callable[..., requests.Response]


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    """The folder above the photos."""
    root = tmp_path_factory.mktemp('own')
    plant(root / 'photos', 24)
    for number, name in enumerate(NAMES):
        (root / 'photos' / name).parent.mkdir(exist_ok=True)
        picture(100 + number, number % 3).save(root / 'photos' / name)
    return root


@pytest.fixture(scope='module')
def call(root, tmp_path_factory) -> Iterator[Call]:
    """A method of HTTP and a path of a server that runs as the chapter says."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    home = tmp_path_factory.mktemp('label-studio')
    settings = {
        'LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED': 'true',
        'LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT': str(root),
        # nothing leaves this machine
        'COLLECT_ANALYTICS': 'false',
        'LATEST_VERSION_CHECK': 'false',
        'HOME': str(home),
    }
    words = ['start', '--no-browser', '--internal-host', '127.0.0.1', '--port', port]
    words += ['--data-dir', str(home), '--username', 'a@example.org', '--password', 'long-enough']
    words += ['--user-token', TOKEN, '--enable-legacy-api-token']
    with open(home / 'log', 'wb') as log:
        server = subprocess.Popen(
            [PROGRAM, *words],
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def call(method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(
            method,
            f'http://127.0.0.1:{port}{path}',
            headers={'Authorization': f'Token {TOKEN}'},
            timeout=120,
            **options,
        )

    try:
        deadline = time.monotonic() + 600  # it builds its database first
        while not _answers(call):
            assert server.poll() is None and time.monotonic() < deadline, (home / 'log').read_text()
            time.sleep(1)
        yield call
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(call: Call) -> bool:
    try:
        return call('GET', '/health').ok
    except requests.ConnectionError:
        return False


def made(answer: requests.Response) -> Any:
    assert answer.ok, answer.text
    return answer.json()


def project(call: Call, config: str) -> int:
    return made(call('POST', '/api/projects', json={'title': 'photos', 'label_config': config}))[
        'id'
    ]


def storage(call: Call, number: int, root: Path) -> int:
    body = {'project': number, 'path': str(root / 'photos'), 'use_blob_urls': True}
    body |= {'regex_filter': '.*png', 'recursive_scan': True}
    return made(call('POST', '/api/storages/localfiles', json=body))['id']


def tasks(call: Call, number: int) -> list[dict[str, Any]]:
    path = f'/api/tasks?project={number}&page_size=100&fields=all'
    return made(call('GET', path))['tasks']


def annotate(call: Call, task: int, kind: str, value: dict[str, Any], **more: Any) -> None:
    name = 'choice' if kind == 'choices' else 'box'
    part = {'from_name': name, 'to_name': 'image', 'type': kind, 'value': value}
    body = {'result': [] if more else [part], **more}
    made(call('POST', f'/api/tasks/{task}/annotations/', json=body))


def exported(call: Call, number: int, form: str, folder: Path) -> Path:
    answer = call('GET', f'/api/projects/{number}/export?exportType={form}')
    assert answer.ok, answer.text
    path = folder / f'export-{form}'
    path.write_bytes(answer.content)
    return path


def answer_of(number: int) -> list[str]:
    return ['rgb'[number % 3]]


FORMS = ('JSON', 'JSON_MIN', 'CSV', 'TSV')


def test_picks_are_shown_labelled_and_read_back(call, root, tmp_path):
    first = ranking.rank(
        root / 'photos', budget=31, cycles=1, strategy='random', features='rotation', epochs=1,
        out=tmp_path / 'picks.csv',
    )  # fmt: skip
    number = project(call, CHOICES.format('single'))
    storage(call, number, root)
    picks = json.loads((tmp_path / 'picks.json').read_text())
    made(call('POST', f'/api/projects/{number}/import', json=picks))
    there = tasks(call, number)
    assert {one['data']['path'] for one in there} == set(first.tree.names)
    want: dict[str, tuple[str, ...]] = {}
    for place, one in enumerate(there):
        shown = call('GET', one['data']['image'])
        assert shown.status_code == 200, one['data']['image']
        assert shown.content == (root / 'photos' / one['data']['path']).read_bytes()
        if place < 20:
            annotate(call, one['id'], 'choices', {'choices': answer_of(place)})
            want[one['data']['path']] = tuple(answer_of(place))
    for form in FORMS:
        path = exported(call, number, form, tmp_path)
        known = labels.match(labels.read_labels(path), first.tree)
        assert {first.tree.names[i]: answer for i, answer in known.answers.items()} == want, form
        again = ranking.rank(
            root / 'photos', budget=5, cycles=1, strategy='random', features='rotation', epochs=1,
            labels=path, cycle=1, out=tmp_path / f'next-{form}.csv', keep=tmp_path / 'photos.pt4al',
        )  # fmt: skip
        assert not set(again.names) & set(want)


def recipe(call: Call, folder: Path, block: int, **words: str) -> str:
    """Run the lines of Python in the chapter where the program's own client library is."""
    chapter = (ROOT / 'book' / 'own.md').read_text()
    code = re.findall(r'```python\n(.*?)```', chapter, re.DOTALL)[block]
    address = call('GET', '/health').url.removesuffix('/health')
    for old, new in {'http://localhost:8080': address, 'THE TOKEN': TOKEN, **words}.items():
        assert old in code
        code = code.replace(old, new)
    python = Path(PROGRAM).resolve().read_text().split('\n')[0].removeprefix('#!')
    done = subprocess.run([python, '-c', code], cwd=folder, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


def test_the_client_library_pushes_picks_and_pulls_answers_as_the_chapter_says(
    call, root, tmp_path
):
    first = ranking.rank(
        root / 'photos', budget=6, cycles=1, strategy='random', features='rotation', epochs=1,
        out=tmp_path / 'picks.csv',
    )  # fmt: skip
    words = {'/whole/path/of/photos': str(root / 'photos')}
    number = int(recipe(call, tmp_path, 0, **words))
    there = tasks(call, number)
    assert {one['data']['path'] for one in there} == set(first.names)
    assert all(call('GET', one['data']['image']).ok for one in there)
    for one in there:
        part = {'from_name': 'label', 'to_name': 'image', 'type': 'choices'}
        body = {'result': [part | {'value': {'choices': ['cat']}}]}
        made(call('POST', f'/api/tasks/{one["id"]}/annotations/', json=body))
    recipe(call, tmp_path, 1, **{'(1)': f'({number})'})
    answers = by_name(labels.read_labels(tmp_path / 'labels.json'))
    assert answers == dict.fromkeys(first.names, ('cat',))


def test_tasks_of_its_own_storage_are_read_back_by_their_files(call, root, tmp_path):
    number = project(call, CHOICES.format('multiple'))
    made(call('POST', f'/api/storages/localfiles/{storage(call, number, root)}/sync'))
    tree, want = ranking.read(root / 'photos', 16), {}
    there = tasks(call, number)
    assert len(there) == len(tree.names)
    for place, one in enumerate(there[:10]):
        answer = ['r', 'b'] if place % 2 else answer_of(place)
        annotate(call, one['id'], 'choices', {'choices': answer})
        shown = call('GET', one['data']['image'])
        want[shown.content] = tuple(answer)
    annotate(call, there[10]['id'], 'choices', {}, was_cancelled=True)  # skipped
    for form in FORMS:
        path = exported(call, number, form, tmp_path)
        known = labels.match(labels.read_labels(path), tree)
        sure = {i: answer for i, answer in known.answers.items() if answer}
        content = {(root / 'photos' / tree.names[i]).read_bytes(): a for i, a in sure.items()}
        assert content == want, form
        assert len(known.answers) - len(sure) == (form == 'JSON')


def test_uploads_are_read_back_by_the_names_of_their_files(call, root, tmp_path):
    number, want = project(call, CHOICES.format('single')), {}
    tree = ranking.read(root / 'photos', 16)
    for name in (*NAMES, 'a/000.png'):
        upload = (Path(name).name, (root / 'photos' / name).read_bytes())
        made(call('POST', f'/api/projects/{number}/import', files={'file': upload}))
    for place, one in enumerate(tasks(call, number)):
        annotate(call, one['id'], 'choices', {'choices': answer_of(place)})
        want[call('GET', one['data']['image']).content] = tuple(answer_of(place))
    for form in FORMS:
        known = labels.match(labels.read_labels(exported(call, number, form, tmp_path)), tree)
        content = {
            (root / 'photos' / tree.names[i]).read_bytes(): a for i, a in known.answers.items()
        }
        assert content == want, form


def test_boxes_are_refused_for_what_they_are(call, root, tmp_path):
    number = project(call, BOXES)
    made(call('POST', f'/api/storages/localfiles/{storage(call, number, root)}/sync'))
    box = {'x': 1, 'y': 1, 'width': 5, 'height': 5, 'rotation': 0, 'rectanglelabels': ['r']}
    annotate(call, tasks(call, number)[0]['id'], 'rectanglelabels', box)
    for form in FORMS:
        other = 'has (no column|choices of another name than) label'
        message = 'holds boxes or shapes' if form == 'JSON' else other
        with pytest.raises(Refused, match=message) as refusal:
            labels.read_labels(exported(call, number, form, tmp_path))
        assert '\n' not in str(refusal.value)
