"""The report's curves, parameters and times."""

import math

import matplotlib.image
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from helpers.report_models import Drawn, make_model

from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.nnunet.trained_model import TrainedModel
from nnunetv2_dsvm.reporting.curves import limits, number_of_parameters, read_curves, shown_duration
from nnunetv2_dsvm.reporting.curves_picture import write_curves


def test_logged_values_that_are_no_numbers_leave_gaps(tmp_path):
    model = TrainedModel(make_model(Drawn(tmp_path, "RGB", cases=1), "a", folds=1, epochs=2))
    logging = {"train_losses": ["x", 10**400, 0.5], "val_losses": "no list", "epoch_start_timestamps": [None, 1.0],
               "epoch_end_timestamps": [2.0, 3.0]}  # fmt: skip
    torch.save({"logging": logging}, model.fold_folder("0") / "checkpoint_final.pth")
    curves = read_curves(model, ["0"])
    assert curves.values(curves.panels[0]) == [0.5] and curves.epoch_seconds["0"] == [2.0]


def test_curves_of_ours_and_of_a_stock_trainer(tmp_path):
    drawn = Drawn(tmp_path, "RGB", cases=2)
    folders = [
        make_model(drawn, trainer, ours=ours, epochs=7, checkpoint=name)
        for trainer, ours, name in (("a", True, "checkpoint_final.pth"), ("b", False, "checkpoint_latest.pth"))
    ]
    ours, stock = (read_curves(TrainedModel(folder), ["0", "1"]) for folder in folders)
    assert [panel.title for panel in stock.panels] == ["loss", "pseudo Dice", "learning rate"]
    logged = torch.load(folders[0] / "fold_1" / "checkpoint_final.pth", weights_only=False)["logging"]
    assert len(ours.panels) == 7 and ours.histories["1"] == {key: logged[key] for key in ours.histories["1"]}
    assert ours.parameters == 12 and list(ours.epoch_seconds) == ["0", "1"]
    assert ours.epoch_seconds["1"] == pytest.approx([2.5] * 7)
    assert ours.notes == () and stock.notes[0] == "Fold 0 is not finished: checkpoint_latest.pth, after 7 epochs."
    write_curves(tmp_path / "curves.png", ours, limits([ours, stock]))
    assert matplotlib.image.imread(tmp_path / "curves.png").shape[1] == 960


@pytest.mark.parametrize("content", [{"network_weights": {}}, {"logging": []}, {"logging": [1]}, 5])
def test_a_checkpoint_of_weights_alone_has_no_curves(tmp_path, content):
    model = TrainedModel(make_model(Drawn(tmp_path, "RGB", cases=1), "a", folds=1, epochs=2))
    torch.save(content, model.fold_folder("0") / "checkpoint_final.pth")
    curves = read_curves(model, ["0"])
    assert (curves.parameters, list(curves.epoch_seconds)) == (None, [])
    assert curves.panels == [] and curves.notes == ("Fold 0: checkpoint_final.pth holds no training curves.",)


def test_parameters_are_those_of_the_network(tmp_path):
    """nnU-Net's decoder holds the encoder again; a batch norm's running statistics are not trained."""
    of_nnunet = PlainConvUNet(
        1, 2, [4, 8], torch.nn.Conv2d, 3, [1, 2], 1, 3, 1, norm_op=torch.nn.BatchNorm2d, deep_supervision=True
    )
    for network in (of_nnunet, VMUNet(1, 2, dims=[8, 16], encoder_depths=[1, 1], decoder_depths=[1, 1])):
        torch.save(network.state_dict(), tmp_path / "weights.pth")
        weights = torch.load(tmp_path / "weights.pth", mmap=True)
        assert number_of_parameters(weights) == sum(p.numel() for p in network.parameters())
    assert number_of_parameters({"a": torch.eye(2).to_sparse(), 1: torch.ones(3)}) == 3
    assert sum(t.numel() for t in of_nnunet.state_dict().values()) > 1.5 * number_of_parameters(of_nnunet.state_dict())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.44, "4.4 s"), (59.97, "1 min 0 s"), (119.6, "2 min 0 s"), (3599.7, "1 h 0 min"), (9000, "2 h 30 min")],
)
def test_durations(seconds, text):
    assert shown_duration(seconds) == text


def test_curves_with_gaps_draw(tmp_path):
    """A continued training whose earlier epochs had no distillation; a term that is zero has no logarithm."""
    curves = read_curves(TrainedModel(make_model(Drawn(tmp_path, "RGB", cases=2), "a", epochs=5)), ["0"])
    curves.histories["0"].update(L_proj=[math.nan] * 3 + [0.2, 0.0], L_prog=[math.nan] * 5)
    assert [p.title for p in curves.panels if p.title.startswith("L_")] == ["L_proj (projection)"]
    write_curves(tmp_path / "curves.png", curves, limits([curves]))
