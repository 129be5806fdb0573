"""The site, the front page on a package index, the container's recipe and the citation."""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from helpers.pages import DOCUMENTATION, ROOT
from PIL import Image


def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings_handlers.python", reason="the extra docs is not installed")
    pytest.importorskip("material", reason="the extra docs is not installed")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    assert built.returncode == 0, built.stdout
    interface = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    names = ["VMUNet", "DualSelfDistillation", "FeatureTaps", "layers.distilled.DistilledTraining", "ss2d_scan"]
    for name in [*names, "cross_validate", "predict_dicom"]:
        assert re.search(rf'id="nnunetv2_dsvm\.[\w.]*{re.escape(name)}"', interface), name
    assert "deep_supervision" in interface


def test_the_front_page_on_an_index_has_no_link_into_the_repository():
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    text = setup.call_args.kwargs["long_description"]
    assert "nnUNetv2_train 27 2d 0 -tr nnUNetTrainerDSVM" in text and "](https://arxiv.org/abs/2601.19690)" in text
    assert not re.findall(r"\]\((?!https://)[^)]*\)", text)


def test_extras_are_installed_by_one_command_from_anywhere():
    """`nnunetv2_dsvm[…]`, which pip adds to what is installed; in a clone alone what needs its files."""
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    files = [*ROOT.glob("*.md"), *DOCUMENTATION.glob("*.md"), *ROOT.glob("nnunetv2_dsvm/**/*.py")]
    found: dict[str, set[str]] = {}
    for file in files:
        for package, extras in re.findall(r"'(nnunetv2_dsvm|\.)\[([\w,]+)\]'", file.read_text(encoding="utf-8")):
            found.setdefault(package, set()).update(extras.split(","))
    of_a_clone = {"test", "docs"}
    others = (
        setup.call_args.kwargs["extras_require"].keys() - of_a_clone - {"interop", "cuda"}
    )  # a test's; a former name
    assert found == {".": of_a_clone, "nnunetv2_dsvm": others}


def test_the_dockerfile_has_no_fault():
    tool = Path(sys.executable).parent / "hadolint"
    if not tool.is_file():
        pytest.skip("hadolint is not installed: there is no package of it for this system")
    checked = subprocess.run([tool, ROOT / "Dockerfile"], stdout=subprocess.PIPE, encoding="utf-8")
    assert checked.returncode == 0, checked.stdout


def test_the_container_gets_what_installing_needs():
    """The files that the Dockerfile copies are all there, and .dockerignore leaves them in."""
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert names and all((ROOT / name).exists() and f"!{name}" in ignored for name in names)


def test_the_citation_is_valid():
    citation = pytest.importorskip("cffconvert.cli.create_citation")
    citation.create_citation(str(ROOT / "CITATION.cff"), None).validate()


def test_the_picture_is_made_from_the_quickstart_s(tmp_path):
    script = DOCUMENTATION / "pictures" / "quickstart.py"
    whole = Image.new("RGB", (1200, 965), "white")
    whole.paste((200, 30, 30), (0, 345, 1200, 625))  # the middle row
    whole.paste((30, 30, 200), (0, 0, 1200, 47))  # the headings
    whole.save(tmp_path / "overlay.png")
    main = runpy.run_path(str(script))["main"]
    main(str(tmp_path / "overlay.png"), str(tmp_path / "small.png"))
    with Image.open(tmp_path / "small.png") as small, Image.open(DOCUMENTATION / "pictures" / "quickstart.png") as kept:
        assert small.size == kept.size == (1200, 367)
        pixels = small.convert("RGB")
        assert [pixels.getpixel((600, y)) for y in (46, 47, 326, 327)] == [
            (30, 30, 200),
            (200, 30, 30),
            (200, 30, 30),
            (255, 255, 255),
        ]
    with pytest.raises(SystemExit, match="expected"):
        main(str(DOCUMENTATION / "pictures" / "quickstart.png"), str(tmp_path / "no.png"))
