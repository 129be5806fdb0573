"""Other people's checkpoints: what is read from them, and that nothing in them is run."""

import os
import pickle

import numpy as np
import pytest
import torch
from helpers.report_models import Drawn, make_model
from helpers.runs_code import RunsCode

from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.safe_load import load_safely
from nnunetv2_dsvm.models.checkpoint import read_checkpoint


def test_no_reader_runs_what_a_pickle_asks_for(tmp_path, capsys):
    drawn = Drawn(tmp_path, "RGB", cases=1).write()
    model = make_model(drawn, "nnUNetTrainerDSVM", folds=1, epochs=1)
    file, witness, out = model / "fold_0" / "checkpoint_final.pth", tmp_path / "was_run", tmp_path / "out"
    torch.save(torch.load(file, weights_only=False) | {"logging": RunsCode(os.system, f"touch {witness}")}, file)
    sentence = f"it asks for {os.system.__module__}.system, and only tensors, numbers and plain values are read"
    for command in (
        ["export", str(model), "-f", "0", "-o", f"{out}.pt2"],
        ["convert-weights", str(file), "-o", f"{out}.pth"],
    ):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert sentence in error and "Nothing of it was run" in error and "Traceback" not in error
    with pytest.raises(UserError, match=sentence):
        VMUNet.from_nnunet(model, 0)
    assert not witness.exists() and not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("numpy", ["numpy._core.", "numpy.core."])
def test_numbers_and_arrays_are_read_as_pickle_reads_them(tmp_path, numpy):
    logged = {
        "numbers": [np.float64(0.1), np.float32(0.1), np.int64(-3), np.bool_(True), np.float16(np.nan), 0.1],
        "classes": [[np.float64(0.25), np.nan], np.arange(6.0).reshape(2, 3).T, np.array(2.5, ">f4"), np.zeros(0)],
        "big": [np.array(1.5, ">f8")[()]],
    }
    file = tmp_path / "checkpoint.pth"
    torch.save({"logging": logged, "other types": [np.str_("a"), np.array(["a", None])]}, file,
               _use_new_zipfile_serialization=False)  # fmt: skip
    expected = torch.load(file, weights_only=False)["logging"]
    file.write_bytes(file.read_bytes().replace(b"numpy._core.", numpy.encode()))
    read = read_checkpoint(file).logged
    assert read.keys() == expected.keys()
    for name, values in expected.items():
        for ours, right in zip(read[name], values, strict=True):
            np.testing.assert_array_equal(ours, right, strict=True)
            assert isinstance(ours, type(right))
    word, objects = load_safely(file)["other types"]
    assert word is None and objects.size == 0


def test_a_pickle_that_is_no_checkpoint(tmp_path):
    file = tmp_path / "checkpoint.pth"
    file.write_bytes(pickle.dumps("text", protocol=2))
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(file)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("as_zip", [True, False])
def test_another_protocol_is_named_and_its_file_not_called_truncated(tmp_path, protocol, as_zip):
    file = tmp_path / "checkpoint.pth"
    torch.save({"a": torch.ones(2), "b": b"xy"}, file, pickle_protocol=protocol,
               _use_new_zipfile_serialization=as_zip)  # fmt: skip
    with pytest.raises(UserError, match=f"protocol {protocol}, .* save it again by torch.save") as refused:
        load_safely(file)
    assert "truncated" not in str(refused.value)
    torch.save(torch.load(file, weights_only=False), file)
    assert load_safely(file)["a"].tolist() == [1, 1]
