"""The examples in docstrings, run as they are printed."""

import doctest
from collections.abc import Callable


def run_example(function: Callable) -> None:
    """Runs the examples in a function's docstring in the current folder; what they give must be what stands there."""
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    (found,) = finder.find(function, globs={})
    assert found.examples, f"{function.__name__} has no example"
    said = []
    runner.run(found, out=said.append)
    assert not runner.failures, "".join(said)
