"""Checkpoints of VMamba and VM-UNet, and the command that converts them."""

import pytest
import torch
from helpers.converted_weights import write_plans
from helpers.golden_files import read_golden
from helpers.places import DATA
from helpers.vmamba_checkpoints import first_generation_shapes, random_weights

from nnunetv2_dsvm.cli.main import main


@pytest.fixture(scope="module")
def golden():
    """Weights (official names), results and sizes of the official code on a small model."""
    golden = read_golden(DATA / "vm_unet_golden.npz")
    config = golden.config
    sizes = {
        "dims": config["dims"],
        "encoder_depths": config["depths"],
        "decoder_depths": config["depths_decoder"],
        "d_state": config["d_state"],
        "drop_path_rate": 0.0,
    }
    return sizes, golden.weights, golden.tensors


@pytest.fixture(scope="module")
def vmamba(golden):
    """The golden model's encoder with a classifier, as VMamba's first generation."""
    sizes, weights, _ = golden
    shapes = first_generation_shapes(sizes["dims"], sizes["encoder_depths"])
    classifier = random_weights({name: shape for name, shape in shapes.items() if name.startswith(("norm.", "head."))})
    encoder = {name: t for name, t in weights.items() if not name.startswith(("layers_up.", "final_"))}
    assert {name: tuple(t.shape) for name, t in {**encoder, **classifier}.items()} == shapes
    return {**encoder, **classifier}


@pytest.fixture
def convert(golden, tmp_path, capsys):
    """convert(checkpoint, *options, **sizes): runs the command for a network of the golden model's sizes."""

    def run(checkpoint, *options, plans=True, **sizes):
        file = tmp_path / "checkpoint.pth"
        if isinstance(checkpoint, bytes):
            file.write_bytes(checkpoint)
        else:
            torch.save(checkpoint, file)
        if plans:
            options = ("--plans", write_plans(tmp_path, {**golden[0], **sizes}), *options)
        if "--input-channels" not in options and plans:
            options = (*options, "--input-channels", 3)
        status = main(["convert-weights", str(file), "-o", str(tmp_path / "out.pth"), *map(str, options)])
        run.status, (run.printed, run.error) = status, capsys.readouterr()
        return torch.load(tmp_path / "out.pth", weights_only=True) if status == 0 else None

    run.out = tmp_path / "out.pth"
    return run
