"""`nnUNetv2_dsvm convert-weights`: weights that do not fit, and what is written."""

from pathlib import Path

import pytest
import torch
from helpers.converted_weights import assert_golden_features, prefixed, write_plans
from helpers.examples_in_docstrings import run_example
from helpers.vmamba_checkpoints import first_generation_shapes, random_weights, second_generation_shapes

import nnunetv2_dsvm
from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")
FIRST_BLOCK = "layers.0.blocks.0.self_attention"


def refused(convert, *arguments, **sizes):
    assert convert(*arguments, **sizes) is None and convert.status == 1
    assert not convert.out.exists() and not list(convert.out.parent.glob(".*"))
    return convert.error


def test_published_second_versions_are_refused_with_the_reason(convert, golden):
    weights = random_weights(second_generation_shapes(golden[0]["dims"], [2, 2, 5, 2]))
    error = refused(convert, {"model": weights}, "--force")
    assert "d_state 1, and this network's has d_state 16" in error and "MLP" in error


def test_neither_a_file_nor_a_network_without_scan_is_fitted_to_one_with_it(convert, golden, vmamba):
    assert "the network has no scan" in refused(convert, {"model": vmamba}, "--force", scan=False)
    without = VMUNet(3, 4, **golden[0], scan=False).state_dict()
    for checkpoint in (without, {"network_weights": without}):
        assert "is of a VM-UNet without its scan" in refused(convert, checkpoint, "--force")


def test_another_width_is_refused_with_both_sizes(convert, vmamba):
    error = refused(convert, {"model": vmamba}, dims=[8, 16, 32, 64])
    assert "fills only 0%" in error and "dims [16, 32, 64, 128]" in error and "dims [8, 16, 32, 64]" in error
    assert "fills only 0%" in refused(convert, {"model": vmamba}, "--force", dims=[8, 16, 32, 64])
    assert "(8, " not in error and "16x3x4x4 there and 8x3x4x4 here" in error


def test_less_than_half_of_the_encoder_only_with_force(convert, vmamba):
    without_deepest = {name: t for name, t in vmamba.items() if not name.startswith(("layers.2.", "layers.3."))}
    encoder = {name: t.numel() for name, t in vmamba.items() if name.startswith(("patch_embed.", "layers."))}
    share = sum(encoder[name] for name in without_deepest.keys() & encoder.keys()) / sum(encoder.values())
    assert share < 0.5
    error = refused(convert, {"model": without_deepest})
    assert f"fills only {share:.0%}" in error and "--force" in error
    weights = convert({"model": without_deepest}, "--force")["network_weights"]
    ours = "encoder.stages.0.blocks.0.ss2d.in_proj.weight"
    assert torch.equal(weights[ours], vmamba["layers.0.blocks.0.self_attention.in_proj.weight"])
    assert "freshly initialised, since the file has nothing for them" in convert.printed
    assert "encoder.stages.2.blocks.0, encoder.stages.3.blocks.0, " in convert.printed


@pytest.mark.parametrize(("share", "written"), [(0.45, False), (0.55, True)])
def test_half_of_the_encoders_parameters_is_the_border(convert, vmamba, share, written):
    names = [name for name in vmamba if name.startswith(("patch_embed.", "layers."))]
    total, kept = sum(vmamba[name].numel() for name in names), 0
    chosen = {}

    def order(name):  # first those that tell the sizes
        tells = name.endswith("ln_1.weight") or name in ("patch_embed.proj.weight", f"{FIRST_BLOCK}.A_logs")
        return not tells, -vmamba[name].numel()

    for name in sorted(names, key=order):
        if kept + vmamba[name].numel() <= share * total:
            chosen[name] = vmamba[name]
            kept += vmamba[name].numel()
    assert abs(kept / total - share) < 0.03
    assert (convert({"model": chosen}) is not None) == written
    row = next(line for line in convert.printed.splitlines() if line.startswith("encoder  "))
    assert row.split()[1:] == [f"{len(chosen)}/{len(names)}", f"{kept:,}/{total:,}", f"{kept / total:.1%}"]


def test_the_preset_that_fits_is_named(convert):
    weights = random_weights(first_generation_shapes([128, 256, 512, 1024], [1, 1, 1, 1], d_state=16))
    error = refused(convert, {"model": weights})
    assert "Presets of these dims: " in error and "deep" in error


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("layers.0.blocks.0.self_attention.A_logs", torch.zeros(5, 16)),
        ("layers.0.blocks.0.self_attention.A_logs", torch.tensor(1.0)),
        ("layers.0.blocks.0.self_attention.A_logs", torch.zeros(192)),
        ("layers.0.blocks.0.ln_1.weight", torch.tensor(1.0)),
        ("patch_embed.proj.weight", torch.zeros(4)),
        ("layers.0.blocks.0.ln_1.bias", torch.zeros(4).to_sparse()),
    ],
    ids=lambda value: value if isinstance(value, str) else str(tuple(value.shape)),
)
def test_tensors_of_another_rank_or_kind_are_named(convert, vmamba, name, broken):
    assert name in refused(convert, {"model": {**vmamba, name: broken}})


@pytest.mark.parametrize("prefix", ["backbone.", "model.", "module.backbone."])
def test_wrappers_around_vmamba_are_passed_over(convert, golden, vmamba, prefix):
    nested = {"state_dict": {"model": prefixed(vmamba, prefix)}}
    assert_golden_features(convert(nested)["network_weights"], golden, ["encoder"])


def test_weights_of_another_network_are_refused(convert):
    resnet = {"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.bn1.weight": torch.zeros(64)}
    assert "neither VMamba nor VM-UNet: its first tensors are conv1.weight" in refused(convert, {"state_dict": resnet})
    assert "it has no state dict" in refused(convert, {"epoch": 3})
    assert "it has no state dict" in refused(convert, [torch.zeros(1)])


def test_a_truncated_file_is_refused(convert, vmamba, tmp_path):
    torch.save({"model": vmamba}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for part in (whole[: len(whole) // 2], b"", b"<html>not found</html>"):
        error = refused(convert, part)
        assert f"({len(part)} bytes) cannot be read" in error and "it is truncated" in error


def test_weights_that_are_not_finite_are_refused(convert, vmamba):
    bad = {**vmamba, "layers.1.blocks.0.ln_1.bias": torch.full((8,), float("nan"))}
    assert "layers.1.blocks.0.ln_1.bias holds NaN" in refused(convert, {"model": bad})


def test_a_missing_file_and_plans_without_the_configuration(convert, vmamba, tmp_path, capsys):
    assert main(["convert-weights", str(tmp_path / "none.pth"), "-o", str(tmp_path / "out.pth")]) == 1
    assert "there is no file" in capsys.readouterr().err
    assert "no network for the configuration 3d_fullres" in refused(convert, {"model": vmamba}, "-c", "3d_fullres")


def test_an_existing_file_stays_unless_overwrite_is_asked_for(convert, vmamba):
    convert.out.write_bytes(b"mine")
    assert convert({"model": vmamba}) is None and "--overwrite" in convert.error
    assert convert.out.read_bytes() == b"mine"
    assert "network_weights" in convert({"model": vmamba}, "--overwrite")


def test_the_file_that_is_read_is_never_the_one_that_is_written(tmp_path, capsys):
    file = tmp_path / "file.pth"
    file.write_bytes(b"mine")
    assert main(["convert-weights", str(file), "-o", str(tmp_path / "." / "file.pth"), "--overwrite"]) == 1
    assert "is the file to be read" in capsys.readouterr().err and file.read_bytes() == b"mine"
    assert main(["convert-weights", str(file), "-o", str(tmp_path / "no" / "out.pth")]) == 1
    assert "a folder that exists" in capsys.readouterr().err


def test_a_disk_that_fills_up_leaves_the_old_file(convert, vmamba, monkeypatch):
    def fill(checkpoint, file, original=torch.save):
        if Path(getattr(file, "name", file)).name == "out.pth":
            file.write(b"half")
            raise OSError(28, "No space left on device")
        original(checkpoint, file)

    convert.out.write_bytes(b"mine")
    monkeypatch.setattr(torch, "save", fill)
    assert convert({"model": vmamba}, "--overwrite") is None
    assert "No space left" in convert.error and convert.out.read_bytes() == b"mine"
    assert {path.name for path in convert.out.parent.iterdir()} == {"checkpoint.pth", "plans.json", "out.pth"}


def test_nothing_but_the_output_is_written_or_removed(vmamba, golden, tmp_path):
    """An unfinished download of the output's name among it, which may even be the input."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    torch.save({"model": vmamba}, folder / "out.pth.partial")
    before = (folder / "out.pth.partial").read_bytes()
    plans = write_plans(tmp_path, golden[0])
    command = ["convert-weights", folder / "out.pth.partial", "-o", folder / "out.pth", "--plans", plans]
    assert main([*map(str, command), "--input-channels", "3"]) == 0
    assert {path.name for path in folder.iterdir()} == {"out.pth", "out.pth.partial"}
    assert (folder / "out.pth.partial").read_bytes() == before


def test_the_random_rest_is_the_same_in_every_call(convert, vmamba):
    first = convert({"model": vmamba})["network_weights"]
    torch.rand(3)
    second = convert({"model": vmamba}, "--overwrite")["network_weights"]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_presets_are_those_of_the_network():
    from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES
    from nnunetv2_dsvm.architecture.vm_unet import PRESETS
    from nnunetv2_dsvm.cli.commands import convert_weights
    from nnunetv2_dsvm.planning.network_of_plans import DEFAULT_PRESET

    assert tuple(PRESETS) == convert_weights.PRESETS and convert_weights.DEFAULT_PRESET == DEFAULT_PRESET
    assert tuple(RELATIVES) == convert_weights.RELATIVES


def test_a_call_writes_what_the_command_writes_and_prints_nothing(convert, vmamba, monkeypatch, capsys):
    by_command = convert({"model": vmamba})
    monkeypatch.chdir(convert.out.parent)
    run_example(nnunetv2_dsvm.convert_weights)
    assert capsys.readouterr() == ("", "")
    by_call = torch.load("weights.pth", weights_only=True)
    assert by_call["nnunetv2_dsvm"] == by_command["nnunetv2_dsvm"]
    assert list(by_call["network_weights"]) == list(by_command["network_weights"])
    assert all(torch.equal(by_call["network_weights"][name], t) for name, t in by_command["network_weights"].items())


@pytest.mark.parametrize(("option", "said"), [("decoder", "auto, encoder, fresh"), ("preset", "small, base, large, ")])
def test_a_call_names_a_choice_that_there_is_not(tmp_path, option, said):
    with pytest.raises(UserError, match=f"unknown {option} 'tiny': choose one of {said}"):
        nnunetv2_dsvm.convert_weights(tmp_path / "file.pth", tmp_path / "out.pth", **{option: "tiny"})
