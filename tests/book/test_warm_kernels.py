"""Kernels that are forks of one warm process: as separate as kernels of their own, and sooner there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import jupyter_client
import nbclient
import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

ROOT = next(p for p in Path(__file__).resolve().parents if (p / 'pyproject.toml').exists())


@pytest.fixture(scope='module')
def warm_kernels():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / 'book' / '_ext')
        patch.setenv('PYTHONPATH', str(ROOT), prepend=os.pathsep)
        import warm_kernels

        before = os.environ.get('JUPYTER_PATH')
        with warm_kernels.serving():
            yield warm_kernels
        assert os.environ.get('JUPYTER_PATH') == before
        assert jupyter_client.AsyncKernelManager().transport == 'tcp'


def printed(folder: Path, *sources: str) -> list[str]:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata['kernelspec'] = {'name': 'python3', 'display_name': '', 'language': 'python'}
    nbclient.execute(notebook, cwd=str(folder))
    return [''.join(out.text for out in cell.outputs).strip() for cell in notebook.cells]


def test_pages_share_imports_and_no_variable(warm_kernels, tmp_path, monkeypatch):
    monkeypatch.setenv('OF_THIS_PAGE', 'yes')
    here = 'import os, sys; x = 1; print(os.getcwd(), os.environ["OF_THIS_PAGE"], os.getpid())'
    names = "print({'scipy.stats', 'pt4al.claims'} <= set(sys.modules))"
    [place, at_hand] = printed(tmp_path, here, names)
    folder, word, first = place.split()
    assert (Path(folder), word) == (tmp_path, 'yes') and at_hand == 'True'
    [other] = printed(tmp_path, "import os; print('x' in globals(), os.getpid())")
    assert other.split()[0] == 'False' and other.split()[1] not in (first, str(os.getpid()))


def test_no_port_is_needed_that_another_could_take(warm_kernels, tmp_path):
    """Kernels that start at once are given ports before they bind them; files are their own."""
    ask = 'from ipykernel.kernelapp import IPKernelApp as app; print(app.instance().transport)'
    assert printed(tmp_path, ask) == ['ipc']
    first, other = jupyter_client.AsyncKernelManager(), jupyter_client.AsyncKernelManager()
    assert first.ip != other.ip


def test_an_error_is_the_pages_own(warm_kernels, tmp_path):
    with pytest.raises(nbclient.exceptions.CellExecutionError, match='ZeroDivisionError'):
        printed(tmp_path, '1 / 0')
    assert printed(tmp_path, 'print(2)') == ['2']


def test_a_kernel_ends_with_what_started_it(warm_kernels):
    manager, client = start_new_kernel(kernel_name='python3')
    out: list[str] = []
    client.execute_interactive(
        'import os; print(os.getpid())',
        output_hook=lambda message: out.append(message['content'].get('text', '')),
    )
    pid = int(''.join(out))
    assert pid != manager.provisioner.pid  # that of the launcher
    client.stop_channels()
    os.kill(manager.provisioner.pid, 9)
    manager.cleanup_resources()
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail('the kernel is still there')
