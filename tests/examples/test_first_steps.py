"""The notebook, run from its first to its last cell, and what is kept of it."""

import re
from pathlib import Path

import pytest
from helpers.places import EXAMPLES

nbformat = pytest.importorskip("nbformat", reason="the extra docs is not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra docs is not installed")
pytest.importorskip("ipykernel", reason="the extra docs is not installed")

NOTEBOOK = EXAMPLES / "first_steps.ipynb"


def outputs(notebook) -> list:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(notebook) -> str:
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


def pictures(notebook) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


@pytest.mark.slow
def test_the_notebook_runs_and_learns(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    kept = printed(notebook), pictures(notebook)
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    text = printed(notebook)
    assert pictures(notebook) == kept[1] == 4
    # The same sentences; the numbers of a training change with the machine.
    numbers = re.compile(r"\d+\.\d+")
    assert numbers.sub("#", text) == numbers.sub("#", kept[0])
    losses = [float(value) for value in re.findall(r"cross-entropy (\d+\.\d+)", text)]
    assert losses[1] < 0.6 * losses[0]
    assert float(re.search(r"Dice of mean: (\d+\.\d+)", text)[1]) > 0.4
    assert not list(Path(tmp_path).iterdir())


def test_the_notebook_is_small_and_its_outputs_are_kept():
    assert NOTEBOOK.stat().st_size < 200_000
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == list(range(1, 8))
    assert "/" not in re.sub(r"1/\d+", "", printed(notebook)), "a path of the machine it was run on"
