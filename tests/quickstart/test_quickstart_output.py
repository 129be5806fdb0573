"""The quickstart's output folder, its commands, and how it resumes. nnU-Net is not run here."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.nnunet import commands
from nnunetv2_dsvm.nnunet import project as project_module
from nnunetv2_dsvm.nnunet.commands import find_command, run_command
from nnunetv2_dsvm.nnunet.folders import VARIABLES
from nnunetv2_dsvm.nnunet.project import NnUNetProject
from nnunetv2_dsvm.quickstart import run as quickstart
from nnunetv2_dsvm.quickstart.output_folder import STATE_FILE, OutputFolder

OPTIONS = {"data": "Dataset900_X", "epochs": 5}


def test_finished_steps_are_not_done_again(tmp_path):
    done = []
    for _ in range(2):
        output = OutputFolder(tmp_path / "out", OPTIONS)
        output.once("a step", lambda: done.append(1))
    assert done == [1]
    assert list(output.finished_s) == ["a step"]


def test_step_that_failed_is_done_again(tmp_path):
    with pytest.raises(ZeroDivisionError):
        OutputFolder(tmp_path, OPTIONS).once("a step", lambda: 1 / 0)
    assert not OutputFolder(tmp_path, OPTIONS).is_finished("a step")


def test_other_options_are_refused(tmp_path):
    OutputFolder(tmp_path, OPTIONS)
    with pytest.raises(UserError, match="epochs=5.*epochs=10.*--output"):
        OutputFolder(tmp_path, {**OPTIONS, "epochs": 10})


@pytest.mark.parametrize("name, content", [("thesis.tex", "a text"), (STATE_FILE, "{}"), (STATE_FILE, "not JSON")])
def test_folder_of_somebody_else_is_refused_and_left_alone(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="--output"):
        OutputFolder(tmp_path, OPTIONS)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == content


def test_file_as_output_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="--output"):
            OutputFolder(path, OPTIONS)


@pytest.fixture
def python_is_the_command(monkeypatch):
    monkeypatch.setattr(commands, "find_command", lambda name: sys.executable)


def run_python(code: str, log_file: Path) -> None:
    run_command(["python", "-c", code], environment=os.environ, log_file=log_file)


def test_command_is_printed_streamed_and_logged(python_is_the_command, tmp_path, capsys):
    run_python("print('häl'); import sys; print('lo', file=sys.stderr)", tmp_path / "logs" / "x.log")
    shown = capsys.readouterr().out
    assert "$ python -c 'print(" in shown
    assert "häl" in shown and "lo" in shown
    assert "häl" in (tmp_path / "logs" / "x.log").read_text(encoding="utf-8")


def test_silent_command_shows_that_it_is_running(python_is_the_command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(commands, "SILENCE_BEFORE_HEARTBEAT_S", 0.1)
    run_python("import time; time.sleep(0.5)", tmp_path / "x.log")
    assert "running for 0:00" in capsys.readouterr().out


def test_failed_command_is_an_error_with_its_log(python_is_the_command, tmp_path):
    with pytest.raises(UserError, match=f"exit status 3.*{tmp_path / 'x.log'}"):
        run_python("raise SystemExit(3)", tmp_path / "x.log")


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are POSIX")
def test_interrupt_ends_the_command_and_what_it_started(python_is_the_command, tmp_path, monkeypatch):
    class Screen(io.StringIO):
        def write(self, text):
            written = super().write(text)
            if "it started" in self.getvalue():  # wherever the pipe cut the child's output
                raise KeyboardInterrupt
            return written

    monkeypatch.setattr(sys, "stdout", Screen())
    sleeper = "import time; time.sleep(60)"
    code = f"""
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {sleeper!r}], stderr=subprocess.DEVNULL)
pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))
print("it " + "started", flush=True)  # in two, because the command itself is shown first
time.sleep(60)
"""
    with pytest.raises(KeyboardInterrupt):
        run_python(code, tmp_path / "x.log")
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while _is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(child)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")  # not reaped yet: ended


def test_missing_command_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="nnUNetv2_nonsense.*pip install"):
        find_command("nnUNetv2_nonsense")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project that only remembers its commands and their environment."""
    ran = []

    def remember(command, *, environment, log_file):
        ran.append((" ".join(command), environment))

    monkeypatch.setattr(project_module, "run_command", remember)
    project = NnUNetProject(tmp_path, "Dataset042_X", "somePlans", "someTrainer", "cpu", processes=2)
    return project, ran


@pytest.mark.parametrize(
    "checkpoints, expected",
    [([], ""), (["best"], " --c"), (["latest", "best"], " --c"), (["final", "best"], " --val")],
    ids=["fresh", "only best", "interrupted", "only the validation is missing"],
)
def test_training_goes_on_from_what_is_there(project, checkpoints, expected):
    project, ran = project
    fold = project.model / "fold_3"
    fold.mkdir(parents=True)
    for name in checkpoints:
        (fold / f"checkpoint_{name}.pth").touch()
    project.train(3)
    assert ran[0][0] == f"nnUNetv2_train 42 2d 3 -tr someTrainer -p somePlans{expected} -device cpu"


def test_commands_see_folders_of_their_own(project, monkeypatch, tmp_path):
    project, ran = project
    monkeypatch.setenv("nnUNet_results", "/the/users/own")
    monkeypatch.setenv("nnUNet_n_proc_DA", "7")
    project.train(0)
    environment = ran[0][1]
    assert {environment[name] for name in VARIABLES} == {str(tmp_path / name) for name in VARIABLES}
    assert environment["nnUNet_n_proc_DA"] == "7"
    assert os.environ["nnUNet_results"] == "/the/users/own"


def test_user_error_is_one_message_and_status_1(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("a text")
    assert main(["quickstart", "--output", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert "was not made by this command" in shown.err
    assert "Traceback" not in shown.err + shown.out


def test_interrupt_is_status_130_and_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(quickstart, "PHANTOM", dataclasses.replace(quickstart.PHANTOM, write=interrupted))
    output = tmp_path / "out put"
    handler = signal.getsignal(signal.SIGTERM)
    assert main(["quickstart", "--synthetic", "--epochs", "1", "--output", str(output)]) == 130
    assert signal.getsignal(signal.SIGTERM) is handler  # processes forked later would inherit another one
    said = f"nnUNetv2_dsvm quickstart --output '{output}' -device cpu --epochs 1 --folds 0 --config 2d --synthetic"
    assert said in capsys.readouterr().err
    assert json.loads((output / STATE_FILE).read_text())["finished_s"] == {}
    assert main(["quickstart", "--synthetic", "--epochs", "1", "--config", "3d_fullres", "--output", str(output)]) == 1
    assert (
        "and this run has data=Dataset901_DSVMPhantom, epochs=1, folds=0, config=3d_fullres" in capsys.readouterr().err
    )


@pytest.mark.parametrize("arguments", [["--epochs", "7"], ["-device", "tpu"], ["--folds", "1"], ["--config", "4d"]])
def test_values_that_do_not_exist_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        main(["quickstart", *arguments])
    assert "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["quickstart", "--help"]])
def test_help_imports_neither_torch_nor_nnunet(arguments):
    code = (
        "import sys; from nnunetv2_dsvm.cli.main import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'nnunetv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
