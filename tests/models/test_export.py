"""VMUNet.from_nnunet, and `nnUNetv2_dsvm export`: a trained model folder becomes a module, a program, an ONNX model."""

import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stdout

import numpy as np
import onnx
import pytest
import torch
from helpers.examples_in_docstrings import run_example
from helpers.model_folder import write_model_folder
from helpers.scan_inputs import grid_inputs, relative_error
from helpers.short_trainers import ShortRun, without_pictures
from helpers.tiny_dataset import PLANS
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

import nnunetv2_dsvm
from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.models.export import formats
from nnunetv2_dsvm.models.export.metadata import KEY, describe
from nnunetv2_dsvm.models.export.traceable_scan import scan_by_rows
from nnunetv2_dsvm.models.trained_network import load_trained_network
from nnunetv2_dsvm.ops import ScanOrder, selective_scan
from nnunetv2_dsvm.ops.scan_inputs import ScanShape
from nnunetv2_dsvm.ops.scan_order import atrous_orders

pytestmark = pytest.mark.usefixtures("one_thread")

# Two stages: tracing takes seconds a block.
NETWORK = {"dims": [8, 16], "encoder_depths": [1, 1], "decoder_depths": [1, 1], "d_state": 2, "drop_path_rate": 0.1}
SHAPES = [(1, 32, 40), (4, 32, 40), (2, 33, 57), (1, 8, 9), (3, 1, 1), (1, 100, 20)]
FORMATS = [("torch-export", ".pt2"), ("onnx", ".onnx")]
TRAINER = "ShortDSVM_deepSupervision"


@pytest.fixture(scope="module")
def trained(tiny_dataset, tmp_path_factory):
    """A dataset with a model of ours with deep supervision, and one of nnU-Net's own trainer."""
    dataset = tiny_dataset.copy(tmp_path_factory.mktemp("trained"))
    plans = dataset.load_plans()
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"] = NETWORK
    (dataset.preprocessed / f"{PLANS}.json").write_text(json.dumps(plans))
    with pytest.MonkeyPatch.context() as patch, without_pictures():
        patch.setattr(ShortRun, "default_num_epochs", 1)
        patch.setenv("NNUNETV2_DSVM_SEED", "1")  # how far fp32 rounds depends on the weights
        dataset.train_here(TRAINER)
        dataset.train_here("ShortNnUNet", plans="nnUNetPlans")
    return dataset


@pytest.fixture(scope="module")
def model(trained):
    return trained.results / f"{TRAINER}__{PLANS}__2d"


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """The model's files, by their suffix: one by the call, which prints nothing, the other by the command."""
    folder, printed = tmp_path_factory.mktemp("exported"), io.StringIO()
    (folder / "model").symlink_to(model)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.chdir(folder)
        run_example(nnunetv2_dsvm.export)
    assert not printed.getvalue()
    assert main(["export", str(model), "-f", "0", "-o", str(folder / "model.onnx"), "--format", "onnx"]) == 0
    return {suffix: folder / f"model{suffix}" for _, suffix in FORMATS}


def images(channels=1):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, channels, height, width, generator=generator) for batch, height, width in SHAPES]


def logits_of(network, image):
    with torch.inference_mode():
        return network(image)


# --- the plain module -------------------------------------------------------------------------------------------------


def test_from_nnunet_is_the_network_of_nnunets_predictor(trained, model, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(trained.root / "my_trainers"))
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    network = VMUNet.from_nnunet(model, 0)
    assert not network.training and len(network.decoder.seg_layers) == 2  # deep supervision's auxiliary head
    for image in images():
        logits = logits_of(network, image)
        assert logits.shape == (len(image), 3, *image.shape[2:])
        assert torch.equal(logits, logits_of(predictor.network.eval(), image))


def test_plans_of_other_planners_give_the_published_size(tiny_dataset, tmp_path):
    plans = json.loads((tiny_dataset.preprocessed / "nnUNetPlans.json").read_text())
    base = VMUNet.from_preset("base", 1, 3)
    folder = write_model_folder(tmp_path / "any name", base, plans, tiny_dataset.load_dataset_json(), fold="all")
    network = VMUNet.from_nnunet(folder, "all")
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), base.parameters(), strict=True))


@pytest.mark.parametrize("regions", [False, True])
def test_channels_of_a_cascade_and_regions_count(tiny_dataset, tmp_path, regions):
    plans, dataset_json = tiny_dataset.load_plans(), tiny_dataset.load_dataset_json()
    plans["configurations"]["second"] = {"inherits_from": "2d", "previous_stage": "2d"}
    if regions:
        dataset_json |= {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
    sizes = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
    network = VMUNet(3, 2 if regions else 3, **sizes)  # one image, and one channel for each of two labels
    trained = load_trained_network(write_model_folder(tmp_path / "m", network, plans, dataset_json, "second"), 0)
    assert trained.configuration_name == "second"
    image = torch.randn(1, 3, 16, 16)
    assert torch.equal(logits_of(trained.network, image), logits_of(network.eval(), image))
    metadata = json.loads(json.dumps(describe(trained)))
    assert [channel.get("of_label") for channel in metadata["channels"]] == [None, 1, 2]
    assert ("[[1, 2], [2]]" if regions else "[0, 1, 2]") in metadata["output"]


def test_what_is_not_there_is_named(trained, model, tmp_path):
    with pytest.raises(UserError, match="has no fold 3; it has 0"):
        VMUNet.from_nnunet(model, 3)
    with pytest.raises(UserError, match=r"has no other\.pth; it has checkpoint_best\.pth, checkpoint_final\.pth"):
        VMUNet.from_nnunet(model, 0, "other.pth")
    with pytest.raises(UserError, match="it has no plans.json and no dataset.json"):
        VMUNet.from_nnunet(tmp_path, 0)
    with pytest.raises(UserError, match="trained by ShortNnUNet and is not of the VM-UNet"):
        VMUNet.from_nnunet(trained.results / "ShortNnUNet__nnUNetPlans__2d", 0)


def test_a_call_names_a_format_that_there_is_not(tmp_path):
    with pytest.raises(UserError, match="unknown format 'pt2': choose one of torch-export, onnx"):
        nnunetv2_dsvm.export("model", tmp_path / "model.pt2", fold=0, format="pt2")


def test_a_truncated_checkpoint_is_refused(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    file = folder / "fold_0" / "checkpoint_final.pth"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"\(5000 bytes\) cannot be read.*truncated"):
        VMUNet.from_nnunet(folder, 0)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("plans.json", lambda plans: []),
        ("plans.json", lambda plans: {**plans, "configurations": {}}),
        ("plans.json", lambda plans: {key: value for key, value in plans.items() if key != "configurations"}),
        ("dataset.json", lambda dataset: {}),
        ("checkpoint_final.pth", lambda checkpoint: {**checkpoint, "init_args": {}}),
        ("checkpoint_final.pth", lambda checkpoint: {**checkpoint, "init_args": {"configuration": "3d_lowres"}}),
    ],
)
def test_a_model_folder_that_lacks_something_is_named(model, tmp_path, file, change):
    folder = shutil.copytree(model, tmp_path / "model")
    if file.endswith(".json"):
        (folder / file).write_text(json.dumps(change(json.loads((folder / file).read_text()))))
    else:
        path = folder / "fold_0" / file
        torch.save(change(torch.load(path, weights_only=False)), path)
    with pytest.raises(UserError, match="give no VM-UNet"):
        VMUNet.from_nnunet(folder, 0)


def test_weights_that_are_not_finite_are_refused(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    path = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["network_weights"]["encoder.patch_embedding.norm.bias"][0] = float("inf")
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match="patch_embedding.norm.bias and 0 other tensors hold NaN or infinite"):
        VMUNet.from_nnunet(folder, 0)


# --- the scan ---------------------------------------------------------------------------------------------------------


SIZES = [(1, 1), (1, 7), (6, 1), (3, 5), (8, 4), (5,), (2, 3, 4), (3, 1, 2)]


@pytest.mark.parametrize(
    "sizes, orders",
    [
        *((sizes, None) for sizes in SIZES),
        ((2, 3, 4), [ScanOrder((1, 2, 0)), ScanOrder((2, 0, 1), reverse=True)]),
        ((4, 6), atrous_orders(2, 2)),
        ((4, 6), [ScanOrder((1, 0), True, 2, (1, 0)), ScanOrder((0, 1), step=2)]),
    ],
)
def test_the_scan_is_the_reference(sizes, orders):
    shape = ScanShape(2, sizes, 6, 3, len(orders)) if orders else ScanShape.of_grid(2, sizes, 6, 3)
    with torch.no_grad():
        x, dt, A, B, C, D, dt_bias = grid_inputs(shape)
        expected = selective_scan(x, dt, A, B, C, D, dt_bias, sizes=sizes, orders=orders, backend="reference")
        delta = torch.nn.functional.softplus(dt + dt_bias)
        dt, B, C = ([t.unflatten(1, sizes) for t in tensor.unbind(2)] for tensor in (delta, B, C))
        got = scan_by_rows(x.unflatten(1, sizes), dt, A, B, C, D, orders)
    assert relative_error(got.flatten(1, -2), expected) < 1e-13


# --- the files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format, suffix", FORMATS)
def test_a_file_computes_what_the_network_computes(model, exported, format, suffix):
    network, run = VMUNet.from_nnunet(model, 0), formats.load(exported[suffix], format)
    for image in images():
        logits = logits_of(network, image)
        assert logits.std() > 0.01
        torch.testing.assert_close(run(image), logits, rtol=0, atol=1e-5 * logits.abs().max().item())


def test_operators_are_standard_and_no_path_of_this_machine_is_inside(exported):
    program = torch.export.load(exported[".pt2"])
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    called = {node.target for graph in graphs for node in graph.nodes if node.op == "call_function"}
    namespaces = {target.namespace for target in called if isinstance(target, torch._ops.OperatorBase)}
    assert namespaces == {"aten", "higher_order"}

    def nodes(graph):
        for node in graph.node:
            yield node
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    yield from nodes(attribute.g)

    loaded = onnx.load(exported[".onnx"])
    onnx.checker.check_model(loaded)
    assert {node.domain for node in nodes(loaded.graph)} == {""} and not loaded.functions
    for file in exported.values():
        assert os.path.dirname(formats.__file__).encode() not in file.read_bytes()


def test_a_file_says_how_it_is_used(exported):
    texts = {KEY: ""}
    torch.export.load(exported[".pt2"], extra_files=texts)
    of_onnx = {entry.key: entry.value for entry in onnx.load(exported[".onnx"]).metadata_props}[KEY]
    assert json.loads(texts[KEY]) == json.loads(of_onnx)
    metadata = json.loads(of_onnx)
    assert metadata["patch_size"] == [32, 40] and metadata["spacing_mm"] == [1.0, 1.0]
    (channel,) = metadata["channels"]
    assert channel["name"] == "MR" and channel["normalization"] == "ZScoreNormalization"
    assert metadata["labels"] == {"background": 0, "one": 1, "two": 2} and "[0, 1, 2]" in metadata["output"]
    assert metadata["trainer"] == TRAINER and metadata["fold"] == "0" and metadata["mirroring_axes"] == [0, 1]


WITHOUT_THE_PACKAGE = """
import sys
sys.modules["nnunetv2_dsvm"] = None  # importing it now fails
import numpy, torch
module = torch.export.load(sys.argv[1]).module()
numpy.save(sys.argv[3], module(torch.from_numpy(numpy.load(sys.argv[2]))).detach().numpy())
assert not [name for name in sys.modules if name.startswith(("nnunetv2_dsvm.", "nnunetv2."))]
"""


def test_the_program_runs_where_this_package_is_not_installed(model, exported, tmp_path):
    image = images()[2]
    np.save(tmp_path / "image.npy", image.numpy())
    subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, exported[".pt2"], tmp_path / "image.npy", tmp_path / "logits.npy"],
        env={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
        check=True,
    )
    logits = logits_of(VMUNet.from_nnunet(model, 0), image)
    got = torch.from_numpy(np.load(tmp_path / "logits.npy"))
    torch.testing.assert_close(got, logits, rtol=0, atol=1e-5 * logits.abs().max().item())


def test_a_file_that_disagrees_is_refused(model, exported, tmp_path, monkeypatch, capsys):
    def traced_wrongly(network, input_channels):
        program = torch.export.load(exported[".pt2"])
        (bias,) = (value for name, value in program.state_dict.items() if "seg_layers.0" in name and "bias" in name)
        with torch.no_grad():
            bias[0] += 0.01
        return program

    monkeypatch.setattr(formats, "trace", traced_wrongly)
    file = tmp_path / "model.pt2"
    file.write_text("older")
    assert main(["export", str(model), "-f", "0", "-o", str(file), "--overwrite"]) == 1
    assert "disagrees with the network with 1 image(s) of 32×40 pixels" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"] and file.read_text() == "older"


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_that_cannot_be_written_leaves_nothing(model, tmp_path, monkeypatch, capsys, failure):
    def fail(program, format, metadata, path):
        path.write_text("half")
        raise failure

    monkeypatch.setattr(formats, "trace", lambda network, input_channels: None)
    monkeypatch.setattr(formats, "write", fail)
    assert main(["export", str(model), "-f", "0", "-o", str(tmp_path / "model.pt2")]) in (1, 130)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", str(model), "-f", "0", "-o", str(tmp_path / "model.onnx"), "--format", "onnx"]) == 1
    assert "--format onnx needs onnxruntime" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_places_that_are_refused(trained, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_results", str(trained.root / "nnUNet_results"))
    named = ["-d", "901", "-tr", TRAINER, "-p", PLANS, "-f", "0"]
    (tmp_path / "there.pt2").write_text("mine")
    for place, message in [
        ("there.pt2", "exists: name another file, or add --overwrite"),
        ("model.onnx", "must end in .pt2 for --format torch-export"),
        ("nowhere/model.pt2", "does not exist"),
    ]:
        assert main(["export", *named, "-o", str(tmp_path / place)]) == 1
        assert message in capsys.readouterr().err
    assert (tmp_path / "there.pt2").read_text() == "mine"
    assert main(["export", *named[:-1], "5", "-o", str(tmp_path / "model.pt2")]) == 1
    assert "has no fold 5; it has 0" in capsys.readouterr().err
