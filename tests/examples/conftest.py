"""The accuracy study's own files, which its tests import as scripts do."""

import sys

import pytest
from helpers.places import STUDY


@pytest.fixture(scope="module")
def study_on_path():
    """The study's files import each other as scripts do."""
    folders = [str(STUDY), str(STUDY / "trainers")]
    sys.path[:0] = folders
    yield
    for folder in folders:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def plan(study_on_path):
    from plan import Plan

    return Plan.read()
