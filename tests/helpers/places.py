"""Where the tests, their data, their scripts and the examples lie."""

from pathlib import Path

HELPERS = Path(__file__).parent
TESTS = HELPERS.parent
DATA = TESTS / "data"
EXAMPLES = TESTS.parent / "examples"
STUDY = EXAMPLES / "accuracy_study"
README = TESTS.parent / "README.md"
