"""A shell script whose commands run inside the test's process, which has imported torch already."""

import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

# Sends its arguments, variables and folder to the test and ends with the status that it answers.
ASK = """#!{python} -SE
import json
import os
import socket
import sys

with socket.create_connection(("127.0.0.1", {port})) as test:
    test.sendall(json.dumps([sys.argv, dict(os.environ), os.getcwd()]).encode())
    test.shutdown(socket.SHUT_WR)
    sys.exit(int(test.recv(8)))
"""


def run_script(
    script: Iterable[object],
    *,
    commands: Mapping[str, Callable[..., object]],
    folder: Path,
    environment: Mapping[str, str],
    within: Path | None = None,
) -> subprocess.CompletedProcess:
    """Run a shell script, `commands` in this process: each is called with the arguments that the script gives it.

    Args:
        script: the file and its arguments.
        commands: functions by the names under which the script finds them; an exception is the exit status 1.
        folder: an empty folder, for the commands' files.
        environment: variables besides those of this process.
        within: the folder to run it in, else this process's.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        for name in commands:
            (folder / name).write_text(ASK.format(python=sys.executable, port=server.getsockname()[1]))
            (folder / name).chmod(0o755)
        path = os.pathsep.join([str(folder), os.environ["PATH"]])
        arguments = [str(word) for word in script]
        process = subprocess.Popen(
            arguments,
            env={**os.environ, **environment, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            cwd=within,
        )
        while process.poll() is None:
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(10)
                (name, *given), variables, where = json.loads(connection.makefile(encoding="utf-8").read())
                with mock.patch.dict(os.environ, variables), _folder(where):
                    connection.sendall(str(_status(commands[Path(name).name], given)).encode())
        return subprocess.CompletedProcess(arguments, process.returncode, process.communicate()[0])


@contextmanager
def _folder(path: str) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


def _status(command: Callable[..., object], arguments: list[str]) -> int:
    try:
        command(*arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Exception:
        traceback.print_exc()
        return 1
    return 0
