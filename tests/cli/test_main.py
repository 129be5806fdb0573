"""The command's parser: spellings of subcommands, and the options that several of them share."""

import argparse

import pytest

import nnunetv2_dsvm
from nnunetv2_dsvm.cli.commands import evaluate
from nnunetv2_dsvm.cli.main import SUBCOMMANDS, main
from nnunetv2_dsvm.cli.shared.arguments import add_model_arguments
from nnunetv2_dsvm.evaluation.protocols import PROTOCOLS


def help_of(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in SUBCOMMANDS if "-" in name or "_" in name])
def test_hyphens_and_underscores_of_subcommands_are_one(capsys, name):
    shown = help_of(capsys, name)
    other = name.translate(str.maketrans("-_", "_-"))
    assert help_of(capsys, other) == shown and shown.startswith(f"usage: nnUNetv2_dsvm {name} ")
    everything = help_of(capsys)
    assert name in everything and other not in everything


def test_an_unknown_subcommand_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["copy+plans"])
    assert "invalid choice: 'copy+plans'" in capsys.readouterr().err


@pytest.mark.parametrize("several", [True, False])
def test_models_are_named_by_the_same_options(several):
    parser = argparse.ArgumentParser()
    add_model_arguments(parser, dataset="", trainer="", fold="", several=several)
    args = parser.parse_args(["-d", "27", "-tr", "nnUNetTrainerDSVM", "-p", "plans", "-c", "2d", "-f", "0"])
    many = (["nnUNetTrainerDSVM"], ["0"]) if several else ("nnUNetTrainerDSVM", "0")
    assert (args.d, args.p, args.c) == ("27", "plans", "2d") and (args.tr, args.f) == many
    if several:
        assert set(vars(parser.parse_args([])).values()) == {None}


def test_the_command_offers_every_protocol():
    assert tuple(PROTOCOLS) == evaluate.PROTOCOL_NAMES


@pytest.mark.parametrize(
    "name",
    [
        *["plan", "evaluate", "evaluate_cross_validation", "report", "export", "convert_weights"],
        *["predict_dicom", "cross_validate"],
    ],
)
def test_what_commands_do_can_be_imported_from_the_package(name):
    function = getattr(nnunetv2_dsvm, name)
    assert function.__name__ == name and name in nnunetv2_dsvm.__all__
