"""Jupyter kernels that start at once: forks of one process that has imported what pages import.

    jupyter_client -> launcher -> socket -> this process -> fork: a kernel like any other

A kernel of its own would spend three seconds of a page on imports.  While `serving` lasts, the name
`python3` means such kernels; pages share no variable, for each has a process of its own.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from unittest import mock
from uuid import uuid4

import jupyter_client
import traitlets

from pt4al.errors import Refused

# What pages import; a name that is not installed is left to the page that asks for it.
IMPORTS = (
    'ipykernel.kernelapp',
    'ipykernel.debugger',
    'IPython.core.debugger',
    'IPython.extensions.storemagic',
    'tornado.platform.asyncio',
    'scipy.stats',
    'pandas',
    'plotly.graph_objects',
    'matplotlib.backends.backend_agg',
    'pt4al.claims',
    'pt4al.figures',
    'pt4al.report',
    'torch',  # which draws images as the tasks see them
)
# Stands for the kernel: hands its place, surroundings and arguments over and ends when it ends.
LAUNCHER = """import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect(sys.argv[1])
server.sendall(json.dumps([os.getcwd(), dict(os.environ), sys.argv[2:]]).encode() + b'\\n')
server.recv(1)"""


def apart(folder: str) -> type[jupyter_client.AsyncKernelManager]:
    """A manager whose kernels talk through files of their own in the folder.

    Ports are chosen before a kernel takes them: of several kernels that start at once, one may find
    its port taken, and dies.
    """

    class Apart(jupyter_client.AsyncKernelManager):
        transport = traitlets.Unicode('ipc')

        @traitlets.default('ip')
        def _ip_default(self) -> str:
            return str(Path(folder) / uuid4().hex)

    return Apart


@contextmanager
def serving() -> Iterator[None]:
    """Have kernels named python3 that start inside this context come from one warm process."""
    before = os.environ.get('JUPYTER_PATH')
    with tempfile.TemporaryDirectory(prefix='kernels-') as folder:
        place = Path(folder) / 'socket'
        spec = Path(folder) / 'kernels' / 'python3' / 'kernel.json'
        spec.parent.mkdir(parents=True)
        argv = [sys.executable, '-I', '-S', '-c', LAUNCHER, str(place), '-f', '{connection_file}']
        about = {'display_name': 'Python 3', 'language': 'python', 'interrupt_mode': 'message'}
        spec.write_text(json.dumps({'argv': argv, **about}))
        line, theirs = socket.socketpair()
        with socket.socket(socket.AF_UNIX) as listener, theirs:
            listener.bind(str(place))
            listener.listen(64)
            server = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno()), str(theirs.fileno())],
                pass_fds=[listener.fileno(), theirs.fileno()],
                env=os.environ | {'PYDEVD_DISABLE_FILE_VALIDATION': '1'},  # no word of a debugger
            )
        try:
            if not line.recv(1):
                raise Refused('no kernel can be started: what went wrong stands above')
            os.environ['JUPYTER_PATH'] = os.pathsep.join(filter(None, [folder, before]))
            # nbclient asks for this name, and has no setting that the book's builder would hand on
            with mock.patch.object(jupyter_client, 'AsyncKernelManager', apart(folder)):
                yield
        finally:
            os.environ.pop('JUPYTER_PATH', None)
            if before is not None:
                os.environ['JUPYTER_PATH'] = before
            line.shutdown(socket.SHUT_RDWR)  # for those who copied it too; the process ends
            line.close()
            server.wait()


def warm() -> None:
    """Do once what nearly every page does first: import, read what results say, draw a figure."""
    for name in IMPORTS:
        with suppress(ImportError):
            import_module(name)
    from pt4al import figures
    from pt4al.experiments import store

    with suppress(Refused):  # the page that needs a damaged result says so
        store.all_result_json()
    figures.rank_forest([('', 0, -1, 1)], '')


def serve(listener: socket.socket, line: socket.socket) -> None:
    """Say on the line that all is warm, then fork a kernel for each connection until it is cut."""
    warm()
    line.send(b'1')
    signal.signal(signal.SIGCHLD, _reap)
    while line not in select.select([listener, line], [], [])[0]:
        launcher, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            line.close()
            _kernel(launcher)
        launcher.close()


def _reap(*_: object) -> None:
    """Take leave of kernels that have ended; their seconds count as this process's."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _kernel(launcher: socket.socket) -> None:
    """Be the kernel that the launcher asks for; never returns."""
    from ipykernel.kernelapp import IPKernelApp

    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        folder, surroundings, arguments = json.loads(launcher.makefile().readline())
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(surroundings)
        threading.Thread(target=_end_with, args=(launcher,), daemon=True).start()
        app = IPKernelApp.instance(log_level='ERROR', parent_handle=os.getppid())
        app.initialize(arguments)
        app.start()
        status = 0
    except Exception:
        traceback.print_exc()  # all that is left to say why the kernel died
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _end_with(launcher: socket.socket) -> None:
    """A launcher that was killed takes its kernel along."""
    launcher.recv(1)
    os._exit(1)


if __name__ == '__main__':
    serve(*(socket.socket(fileno=int(number)) for number in sys.argv[1:]))
