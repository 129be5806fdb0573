"""Parameter groups, learning rate, ramp and the loss: the parts of a training that need no data."""

import math

import pytest
import torch
from torch import nn

from nnunetv2_dsvm.architecture.vm_unet import VMUNet, VMUNetOutput
from nnunetv2_dsvm.distillation import DualSelfDistillation
from nnunetv2_dsvm.training.loss import SegmentationWithDistillationLoss
from nnunetv2_dsvm.training.optimization import WarmupCosineSchedule, learning_rate, linear_ramp, parameter_groups

TINY = {"dims": (8, 16), "encoder_depths": (1, 1), "decoder_depths": (1, 1), "d_state": 2}
RATES = {"initial_lr": 1e-3, "final_lr": 1e-5}

# --- parameter groups -------------------------------------------------------------------------------------------------


def test_decay_spares_the_scan_parameters_biases_and_norms():
    network = VMUNet(1, 2, **TINY)
    distillation = DualSelfDistillation(network.encoder.output_channels, network.decoder.output_channels)
    decayed, undecayed = parameter_groups([network, distillation], 0.01)
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.01, 0.0)
    names = {id(p): n for module in (network, distillation) for n, p in module.named_parameters()}
    assert {names[id(p)] for p in undecayed["params"]} == {
        name for name in names.values() if "norm" in name or name.endswith((".bias", ".A_log", ".D", ".dt_bias"))
    }
    assert len(decayed["params"]) + len(undecayed["params"]) == len(names)


def test_norm_weights_without_norm_in_their_name_are_spared_too():
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    decayed, undecayed = parameter_groups([module], 0.1)
    assert [p.shape for p in decayed["params"]] == [(3, 3)]
    assert len(undecayed["params"]) == 3


def test_frozen_parameters_stay_out():
    module = nn.Linear(2, 2)
    module.weight.requires_grad_(False)
    decayed, undecayed = parameter_groups([module], 0.1)
    assert decayed["params"] == [] and undecayed["params"] == [module.bias]


def test_adamw_decays_one_group_only():
    module = nn.Linear(2, 2)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups([module], 0.01), lr=0.1)
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(module.weight, before["weight"] * (1 - 0.1 * 0.01))
    assert torch.equal(module.bias, before["bias"])


def test_an_encoder_can_have_groups_of_its_own():
    network = VMUNet(1, 2, **TINY)
    distillation = DualSelfDistillation(network.encoder.output_channels, network.decoder.output_channels)
    together = parameter_groups([network, distillation], 0.01)
    groups = parameter_groups([network, distillation], 0.01, network.encoder)
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0, 0.01, 0.0]
    assert [group.get("part") for group in groups] == [None, None, "encoder", "encoder"]
    assert not any("part" in group for group in together)
    assert {p for group in groups[2:] for p in group["params"]} == set(network.encoder.parameters())
    for kind in (0, 1):
        assert set(groups[kind]["params"]) | set(groups[kind + 2]["params"]) == set(together[kind]["params"])


def test_the_encoders_rate_is_0_while_frozen_and_then_a_fraction():
    network = VMUNet(1, 2, **TINY)
    optimizer = torch.optim.AdamW(parameter_groups([network], 0.01, network.encoder), lr=7.0)
    schedule = WarmupCosineSchedule(
        optimizer, num_epochs=30, warmup_epochs=1, encoder_lr_factor=0.1, frozen_encoder_epochs=3, **RATES
    )
    for epoch in (5, 0, 2, 3, 29):
        schedule.step(epoch)
        rate = learning_rate(epoch, 30, warmup_epochs=1, **RATES)
        expected = rate * 0.1 if epoch >= 3 else 0.0
        assert [group["lr"] for group in optimizer.param_groups] == [rate, rate, expected, expected]
    assert "encoder_lr_factor=0.1, frozen_encoder_epochs=3" in str(schedule)


# --- schedule and ramp ------------------------------------------------------------------------------------------------


def test_300_epochs_warm_up_for_10_and_follow_one_cosine():
    rates = [learning_rate(epoch, 300, warmup_epochs=10, **RATES) for epoch in range(300)]
    assert rates[:10] == pytest.approx([1e-3 * k / 11 for k in range(1, 11)])
    assert rates[10] == 1e-3 == max(rates)
    assert rates[155] == pytest.approx((1e-3 + 1e-5) / 2)  # half of the 290 epochs of the cosine
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[299] == pytest.approx(1e-5, rel=0.01)
    assert learning_rate(300, 300, warmup_epochs=10, **RATES) == pytest.approx(1e-5)


def test_the_cosine_is_that_of_torch():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=1e-5)
    for epoch in range(50):
        assert learning_rate(epoch, 50, warmup_epochs=0, **RATES) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("num_epochs", [1, 2, 5])
def test_short_trainings_start_at_the_full_rate(num_epochs):
    rates = [learning_rate(epoch, num_epochs, warmup_epochs=0, **RATES) for epoch in range(num_epochs)]
    assert rates[0] == 1e-3
    assert all(1e-5 < rate <= 1e-3 for rate in rates)


def test_the_schedule_depends_on_the_epoch_alone():
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.AdamW([{"params": [parameter]}, {"params": []}], lr=7.0)
    schedule = WarmupCosineSchedule(optimizer, num_epochs=30, warmup_epochs=1, **RATES)
    schedule.step(20)
    schedule.step(3)
    expected = learning_rate(3, 30, warmup_epochs=1, **RATES)
    assert [group["lr"] for group in optimizer.param_groups] == [expected, expected]
    assert "num_epochs=30" in str(schedule)


def test_ramp_is_a_line_from_0_before_the_first_epoch_to_1():
    assert [linear_ramp(epoch, 4) for epoch in range(7)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1])
    assert linear_ramp(-1, 30) == 0
    assert linear_ramp(0, 0) == 1


# --- loss -------------------------------------------------------------------------------------------------------------


class Terms(nn.Module):
    """Stands in for the distillation: two known terms."""

    def forward(self, encoder_features, decoder_features):
        return {"projection": encoder_features[0].sum(), "progressive": decoder_features[0].sum()}


def make_loss(ramp_epochs=4):
    return SegmentationWithDistillationLoss(
        nn.MSELoss(), Terms(), {"projection": 0.5, "progressive": 0.25}, ramp_epochs=ramp_epochs
    )


def make_output(logits=3.0, encoder=2.0, decoder=8.0):
    return VMUNetOutput(torch.tensor([logits]), (torch.tensor([encoder]),), (torch.tensor([decoder]),))


def test_total_is_segmentation_plus_ramped_weighted_terms():
    loss = make_loss()
    for epoch, ramp in [(0, 0.2), (2, 0.6), (4, 1.0), (90, 1.0)]:
        loss.set_epoch(epoch)
        value = loss(make_output(), torch.tensor([1.0])).item()
        assert value == pytest.approx(4.0 + ramp * (0.5 * 2.0 + 0.25 * 8.0))
        assert loss.ramp == pytest.approx(ramp)


def test_plain_logits_get_the_segmentation_loss_alone_and_are_not_recorded():
    loss = make_loss()
    assert loss(torch.tensor([3.0]), torch.tensor([1.0])).item() == 4.0
    assert loss.mean_terms() == {}


def test_deep_supervision_reaches_the_segmentation_loss_as_lists():
    def sum_of_outputs(outputs, targets):
        return sum(abs(o - t).sum() for o, t in zip(outputs, targets, strict=True))

    weights = {"projection": 0.5, "progressive": 0.25}
    loss = SegmentationWithDistillationLoss(sum_of_outputs, Terms(), weights, ramp_epochs=0)
    output = make_output()._replace(logits=[torch.tensor([3.0]), torch.tensor([5.0])])
    assert loss(output, [torch.tensor([1.0]), torch.tensor([1.0])]).item() == pytest.approx(6.0 + 3.0)


def test_terms_are_averaged_over_an_epoch_and_forgotten_with_the_next():
    loss = make_loss()
    loss(make_output(logits=1.0, encoder=1.0), torch.tensor([1.0]))
    loss(make_output(logits=3.0, encoder=5.0), torch.tensor([1.0]))
    assert loss.mean_terms() == pytest.approx({"segmentation": 2.0, "projection": 3.0, "progressive": 8.0})
    assert {name: value.item() for name, value in loss.last_terms.items()} == {
        "segmentation": 4.0,
        "projection": 5.0,
        "progressive": 8.0,
    }
    assert not any(value.requires_grad for value in loss.last_terms.values())
    loss.set_epoch(1)
    assert loss.mean_terms() == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("distance", ["mse", "kl"])
def test_training_step_of_a_network_under_autocast_is_finite_and_close_to_fp32(dtype, distance):
    torch.manual_seed(1)
    network = VMUNet(1, 2, drop_path_rate=0.0, **TINY)
    network.return_features = True
    channels = network.encoder.output_channels, network.decoder.output_channels
    distillation = DualSelfDistillation(*channels, distance=distance)
    loss = SegmentationWithDistillationLoss(nn.CrossEntropyLoss(), distillation, {"projection": 1, "progressive": 1}, 0)
    image, target = torch.randn(2, 1, 24, 16), torch.randint(2, (2, 24, 16))
    expected = loss(network(image), target).item()
    with torch.autocast("cpu", dtype=dtype):
        value = loss(network(image), target)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, rel=0.05)
    for module in (network, distillation):
        assert all(p.grad.isfinite().all() for p in module.parameters())
    assert math.isfinite(loss.mean_terms()["projection"])
