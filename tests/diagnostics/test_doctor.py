"""`nnUNetv2_dsvm doctor`: each problem comes with one line of advice, and only what stops training gives status 1."""

import json
import os
import subprocess
import sys
import tempfile

import pytest

from nnunetv2_dsvm.cli.commands import doctor
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.diagnostics import diagnosis, hardware, requirements, trainers
from nnunetv2_dsvm.diagnostics.finding import Finding, Severity
from nnunetv2_dsvm.diagnostics.folders import check_folders, check_trainer_folders
from nnunetv2_dsvm.diagnostics.subprocess_probe import ProbeFailed, run_probe
from nnunetv2_dsvm.nnunet.folders import VARIABLES

SWITCHES = ("NNUNETV2_DSVM_AUTOREGISTER", "TORCH_DEVICE_BACKEND_AUTOLOAD", "nnUNet_extTrainer")


def severities(findings):
    return {finding.subject: finding.severity for finding in findings}


@pytest.fixture
def clean_environment(monkeypatch):
    """As in a user's shell: torch, imported by the tests, has registered the trainers in this process."""
    for name in SWITCHES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def good_machine(monkeypatch, tmp_path):
    """Everything but the folders is fine, and nothing slow is run."""
    monkeypatch.setattr(diagnosis, "check_hardware", lambda: ([Finding("devices", "cpu", Severity.OK, "one")], {}))
    monkeypatch.setattr(diagnosis, "check_trainers", lambda: [])
    for name in VARIABLES:
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


def run_doctor(**options):
    import argparse

    return doctor.run(argparse.Namespace(**{"json": False, **options}))


class TestFolders:
    def test_unset_or_empty(self):
        findings = check_folders({"nnUNet_raw": "", "nnUNet_results": "  "})
        assert set(severities(findings).values()) == {Severity.BLOCKER}
        assert "export nnUNet_raw=" in findings[0].advice

    def test_writable_and_nothing_left_behind(self, tmp_path):
        existing, missing = tmp_path / "there", tmp_path / "not" / "yet"
        existing.mkdir()
        findings = check_folders(dict(zip(VARIABLES, map(str, [existing, missing, tmp_path]), strict=True)))
        assert set(severities(findings).values()) == {Severity.OK}
        assert [p.name for p in tmp_path.rglob("*")] == ["there"]

    def test_below_a_file(self, tmp_path):
        file = tmp_path / "file"
        file.touch()
        findings = check_folders(dict(zip(VARIABLES, map(str, [file, file / "below", tmp_path]), strict=True)))
        assert list(severities(findings).values()) == [Severity.BLOCKER, Severity.BLOCKER, Severity.OK]
        assert str(file) in findings[1].detail

    def test_a_read_only_disk_stops_training_but_for_the_raw_images(self, tmp_path, monkeypatch):
        def refuse(**_):
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
        findings = check_folders({name: str(tmp_path) for name in VARIABLES})[:3]
        assert list(severities(findings).values()) == [Severity.PROBLEM, Severity.BLOCKER, Severity.BLOCKER]
        assert "Read-only file system" in findings[0].detail

    @pytest.mark.skipif(not hasattr(os, "seteuid") or os.geteuid() != 0, reason="becomes another user for a moment")
    def test_a_folder_in_somebody_elses(self, tmp_path):
        (tmp_path / "secret" / "raw").mkdir(parents=True)
        (tmp_path / "secret").chmod(0o700)
        os.seteuid(65534)
        try:
            findings = check_folders(dict.fromkeys(VARIABLES, f"{tmp_path}/secret/raw"))
        finally:
            os.seteuid(0)
        assert severities(findings) == dict.fromkeys(VARIABLES, Severity.BLOCKER)

    @pytest.mark.parametrize(("first", "second", "expected"), [
        ("nnUNet_raw", "nnUNet_preprocessed", Severity.BLOCKER),
        ("nnUNet_preprocessed", "nnUNet_results", Severity.PROBLEM),
    ])  # fmt: skip
    def test_one_folder_for_two(self, first, second, expected, tmp_path):
        (tmp_path / "link").symlink_to(tmp_path / first)
        environment = {name: str(tmp_path / name) for name in VARIABLES} | {second: f"{tmp_path}/link/"}
        (tmp_path / first).mkdir()
        assert severities(check_folders(environment))[second] is expected

    def test_a_relative_path(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        finding = check_folders({"nnUNet_raw": "data/raw"})[0]
        assert finding.severity is Severity.PROBLEM and finding.advice == f"set it to {tmp_path}/data/raw"

    def test_folders_of_trainers(self, tmp_path):
        listed = os.pathsep.join([str(tmp_path), "", "~/mine", f"{tmp_path}/none", f'"{tmp_path}"', "C:\\mine", "mine"])
        findings = check_trainer_folders(listed)
        assert [f.severity for f in findings] == [Severity.OK, *[Severity.PROBLEM] * 5]
        for finding, words in zip(findings[1:], ("home folder", "passes over it", "quotes", "Windows", "elsewhere"),
                                  strict=True):  # fmt: skip
            assert words in finding.detail


class TestRequirements:
    def test_this_environment_is_fine(self):
        found = severities(requirements.check_requirements())
        assert found["torch"] is found["nnunetv2"] is found["python"] is Severity.OK
        assert found["batchgenerators"] is Severity.NOTE

    @pytest.mark.parametrize("version", ["2.9.0", "2.9.1+cu128", "2.4.1", None])
    def test_torch_that_is_not_supported(self, version, monkeypatch):
        monkeypatch.setattr(requirements, "installed_version", lambda name: version if name == "torch" else "2.8")
        finding = next(f for f in requirements.check_requirements() if f.subject == "torch")
        assert finding.severity is Severity.BLOCKER
        assert finding.advice.startswith("pip install 'torch")

    def test_not_installed(self, monkeypatch):
        def missing(name):
            raise requirements.importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(requirements.importlib.metadata, "requires", missing)
        assert severities(requirements.check_requirements())["nnunetv2_dsvm"] is Severity.BLOCKER


class TestTrainers:
    @pytest.mark.parametrize("switch", SWITCHES[:2])
    def test_explains_what_turns_the_registration_off(self, switch, monkeypatch, clean_environment):
        monkeypatch.setenv(switch, "0")
        monkeypatch.setattr(trainers, "TRAINERS", trainers.TRAINERS[:1])
        (finding,) = trainers.check_trainers()
        assert finding.severity is Severity.BLOCKER
        assert f"{switch}=0" in finding.detail
        assert f"unset {switch}" in finding.advice and "export nnUNet_extTrainer=" in finding.advice

    def test_registered_by_hand(self, monkeypatch, clean_environment):
        monkeypatch.setenv(SWITCHES[0], "0")
        found = {name: {"module": "m", "error": None} for name in trainers.TRAINERS}
        monkeypatch.setattr(trainers, "run_probe_file", lambda *_, **__: found)
        assert {f.severity for f in trainers.check_trainers()} == {Severity.OK, Severity.NOTE}

    def test_an_error_of_the_look_up_is_shown(self, monkeypatch, clean_environment):
        found = {"nnUNetTrainerDSVM": {"module": None, "error": "ImportError: no timm"}}
        monkeypatch.setattr(trainers, "run_probe_file", lambda *_, **__: found)
        (finding,) = trainers.check_trainers()
        assert finding.severity is Severity.BLOCKER and "ImportError: no timm" in finding.detail


class TestHardware:
    def test_torch_that_crashes(self, monkeypatch):
        def crash(_):
            raise ProbeFailed("Segmentation fault")

        monkeypatch.setattr(hardware, "run_probe", crash)
        (finding,), _ = hardware.check_hardware()
        assert finding.severity is Severity.BLOCKER and "Segmentation fault" in finding.detail

    def test_torchvision_of_another_torch(self, monkeypatch):
        imports = {"torch": None, "torchvision": "RuntimeError: operator torchvision::nms does not exist"}
        monkeypatch.setattr(hardware, "run_probe", lambda _: {"imports": imports})
        findings, _ = hardware.check_hardware()
        assert severities(findings) == {"torch": Severity.OK, "torchvision": Severity.BLOCKER}

    @pytest.mark.parametrize(("broken", "severity"), [("first", Severity.BLOCKER), ("second", Severity.PROBLEM)])
    def test_a_wrong_scan_backend_stops_training_if_it_would_be_taken(self, broken, severity, monkeypatch):
        def backend(name):
            failure = "WrongResult: off" if name == broken else None
            return {"supported": True, "reason": "", "error": None if failure else 1e-7, "failure": failure}

        backends = {"first": backend("first"), "second": backend("second")}
        backends["absent"] = {"supported": False, "reason": "no GPU", "error": None, "failure": None}
        devices = {"cpu": {"name": "c", "cores": 1, "torch_threads": 1}, "cuda": [], "cuda_problem": "x", "mps": False}
        answer = {"imports": {}, "devices": devices, "scan": {"cpu": backends}}
        monkeypatch.setattr(hardware, "run_probe", lambda _: answer)
        found = severities(hardware.check_hardware()[0])
        assert found[f"{broken} on cpu"] is severity
        assert found["absent on cpu"] is Severity.NOTE


class TestCommand:
    def test_status_0(self, good_machine, capsys):
        assert run_doctor() == 0
        assert capsys.readouterr().out.rstrip().endswith("Training can start: no problems.")

    def test_status_1_and_advice_for_an_unset_folder(self, good_machine, monkeypatch, capsys):
        monkeypatch.delenv("nnUNet_results")
        assert run_doctor() == 1
        out = capsys.readouterr().out
        assert "→ export nnUNet_results=" in out and out.rstrip().endswith("Training cannot start: 1 problem.")

    def test_a_problem_that_does_not_stop_training(self, good_machine, monkeypatch, capsys):
        finding = Finding("trainers", "x", Severity.PROBLEM, "d", "a")
        monkeypatch.setattr(diagnosis, "check_trainers", lambda: [finding])
        assert run_doctor(json=True) == 0
        assert json.loads(capsys.readouterr().out)["ready"] is True

    def test_a_probe_without_an_answer(self):
        with pytest.raises(ProbeFailed, match="No module named"):
            run_probe("nnunetv2_dsvm.diagnostics.there_is_no_such_probe")

    @pytest.mark.slow
    def test_the_real_thing_in_a_fresh_process(self, tmp_path, clean_environment):
        environment = {**os.environ, **{name: str(tmp_path / name) for name in VARIABLES}}
        command = [sys.executable, "-m", "nnunetv2_dsvm.cli.main", "doctor", "--json"]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, encoding="utf-8")
        answer = json.loads(done.stdout)  # fails on any noise
        problems = [f for f in answer["findings"] if f["severity"] not in ("ok", "note")]
        assert (done.returncode, problems) == (0, [])
        assert answer["scan"]["cpu"]["torch_chunked"]["error"] < 1e-5
        assert {f["subject"] for f in answer["findings"]} >= {"nnUNetTrainerDSVM", "torch", "cpu", "nnUNet_raw"}
        assert list(tmp_path.iterdir()) == []


def test_a_file_that_may_not_be_read_ends_a_command_in_one_sentence(monkeypatch, capsys):
    def read(*_, **__):
        raise PermissionError(13, "Permission denied", "/secret/plans.json")

    monkeypatch.setattr("nnunetv2_dsvm.cli.commands.copy_plans.preprocessed_folder", read)
    assert main(["copy-plans", "-d", "1", "-o", "mine"]) == 1
    assert capsys.readouterr().err == "\nnnUNetv2_dsvm copy-plans: /secret/plans.json: Permission denied\n"
