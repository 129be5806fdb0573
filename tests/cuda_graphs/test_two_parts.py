"""A backward in two parts gives the gradients of one in one part."""

import pytest
import torch

from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.cuda_graphs.averaged_gradients import AveragedGradients
from nnunetv2_dsvm.cuda_graphs.two_parts import Cut, gradients_in_two_parts

SIZES = {"dims": (8, 16), "encoder_depths": (1, 1), "decoder_depths": (1, 1), "d_state": 2, "drop_path_rate": 0.0}


# At full resolution the decoder reads the patch embedding, whose gradient then does not come through the cut alone.
@pytest.mark.parametrize(
    ("additions", "parts"),
    [({}, 2), ({"full_resolution_channels": 8}, 1), ({"fine_channels": 8}, 1)],
    ids=["two parts", "not separated", "not separated either"],
)
def test_gradients_of_two_parts_have_the_bits_of_one(one_thread, additions, parts):
    torch.manual_seed(0)
    network = VMUNet(1, 2, **SIZES, **additions).train()
    network.return_features = True
    image = torch.randn(1, 1, 32, 32)
    found, first = [], []

    def between(positions, gradients):
        first.extend(positions)
        return gradients

    sources = dict(network.named_parameters())
    for with_cut in (True, False):
        cut = Cut(network.gradients_last if with_cut else ())
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), cut.within(network, "cpu"):
            output = network(image)
        outputs = [output.logits, *output.encoder_features, *output.decoder_features]
        upstream = [torch.ones_like(t) for t in outputs]
        assert (cut.tensor is None) != with_cut
        found.append(gradients_in_two_parts(outputs, list(sources.values()), upstream, cut.tensor, between))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    last = {name for i, name in enumerate(sources) if i not in first}
    before_the_cut = {n for n in sources if n.startswith(("encoder.patch_embedding.", "encoder.stages.0."))}
    assert last == (before_the_cut if parts == 2 else set(sources))
    assert not network.encoder.stages[0]._forward_hooks


def test_a_bucket_is_averaged_early_only_where_nothing_but_the_replay_wrote_into_it():
    first, second = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
    bucket, event = torch.zeros(5), object()
    averaged = AveragedGradients()
    averaged.places.update({first: bucket[:2], second: bucket[2:]})
    assert not averaged.is_early([first], bucket)
    averaged.replayed({first}, event)
    assert averaged.is_early([first], bucket) and not averaged.is_early([first, second], bucket)
    averaged.places[first].detach().add_(1)  # as a gradient that is added to
    assert not averaged.is_early([first], bucket)
    averaged.replayed({first}, event)
    assert averaged.is_early([first], bucket)
    averaged.replayed(set(), None)  # of another graph, in one part
    assert not averaged.is_early([first], bucket)
