"""What every network of this package can do; a network's test class says how it is built and adds what is its own."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.golden import read_golden
from helpers.scan_inputs import relative_error


def _sum_of_squares(output: Any) -> Tensor:
    """Of all logits and features, in which every parameter has a part."""
    tensors = [output] if isinstance(output, Tensor) else output
    return sum(t.square().mean() if isinstance(t, Tensor) else _sum_of_squares(t) for t in tensors)


class NetworkContract:
    """Subclass it as `TestName`, with the attributes and methods below.

    `golden_file` holds weights, input, output, features, and gradients' norms of the official code on a small model.
    `depth` is what comes before the height of images in the shapes of these tests: nothing, or of volumes a number.
    """

    golden_file: Path
    depth: tuple[int, ...] = ()
    tolerance = 1e-5  # of fp32 beside the golden file, relative

    def build(self, input_channels: int = 1, num_classes: int = 2, **options: Any) -> nn.Module:
        """The smallest network that still has all parts and no randomness; `options` are its own, as heads."""
        raise NotImplementedError

    def build_golden(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
        """The network of the golden file, with its weights, given under the official names."""
        raise NotImplementedError

    def official_name(self, ours: str) -> str:
        """Of a parameter, as the golden file names it."""
        raise NotImplementedError

    def test_golden_numbers(self):
        """Output and features in fp32; gradients in fp64, of what the output depends on by more than rounding noise."""
        config, tensors = read_golden(self.golden_file)
        weights = {k.removeprefix("weight/"): v for k, v in tensors.items() if k.startswith("weight/")}
        network = self.build_golden(config, weights).train()
        network.return_features = True
        output = network(tensors["input"])
        assert relative_error(output.logits, tensors["output"]) <= self.tolerance
        for side in ("encoder", "decoder"):
            features = getattr(output, f"{side}_features")
            assert len(features) == len(network.encoder_stages if side == "encoder" else network.decoder_stages)
            for level, feature in enumerate(features, 1):
                assert relative_error(feature, tensors[f"feature/{side}_stage_{level}"]) <= self.tolerance
        image = tensors["input"].double().requires_grad_()
        network.double()(image).logits.backward(tensors["output_grad"].double())
        assert relative_error(image.grad, tensors["input_grad"]) <= self.tolerance
        norms = {name: parameter.grad.norm().item() for name, parameter in network.named_parameters()}
        real = {name: norm for name, norm in norms.items() if norm > 1e-9}
        official = {name: tensors[f"grad_norm/{self.official_name(name)}"].item() for name in real}
        assert real == pytest.approx(official, rel=self.tolerance) and real

    @pytest.mark.parametrize("size", [(1, 1), (31, 47), (56, 40), (64, 32)], ids=str)
    def test_any_image_size(self, size):
        with torch.no_grad():
            logits = self.build(2, 3).eval()(torch.randn(2, 2, *self.depth, *size))
        assert logits.shape == (2, 3, *self.depth, *size) and logits.isfinite().all()
        assert size == (1, 1) or logits.min() < 0 < logits.max()  # no softmax or sigmoid: the loss has it

    @pytest.mark.parametrize(("channels", "classes"), [(1, 1), (3, 61), (7, 2)])
    def test_gradients_reach_every_parameter(self, channels, classes):
        network = self.build(channels, classes, deep_supervision=True).double().train()
        network.return_features = True
        _sum_of_squares(network(torch.randn(2, channels, *self.depth, 64, 96, dtype=torch.float64))).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.norm() > 0, name

    def test_deep_supervision(self):
        network = self.build(deep_supervision=True)
        sizes = (*self.depth, 56, 40)
        outputs = network(torch.randn(1, 1, *sizes))
        strides = network.output_strides
        expected = [(1, 2, *(-(-n // step) for n, step in zip(sizes, stride, strict=True))) for stride in strides]
        assert [tuple(o.shape) for o in outputs] == expected
        assert set(strides[0]) == {1} and len(strides) > 1
        network.decoder.deep_supervision = False  # as nnU-Net does for its validation
        assert network(torch.randn(1, 1, *sizes)).shape == (1, 2, *sizes)

    def test_features_are_those_of_the_stages_that_it_states(self):
        network = self.build().train()
        size = tuple(times * step for times, step in enumerate(network.encoder_stages[-1].stride, 2))
        image = torch.randn(1, 1, *size)
        assert isinstance(network(image), Tensor)
        network.return_features = True
        output = network(image)
        for features, stages in (
            (output.encoder_features, network.encoder_stages),
            (output.decoder_features, network.decoder_stages),
        ):
            shapes = [(1, s.channels, *(n // step for n, step in zip(size, s.stride, strict=True))) for s in stages]
            assert [tuple(f.shape) for f in features] == shapes
            assert list(stages) == sorted(stages, key=lambda stage: stage.stride)
            assert all(isinstance(network.get_submodule(stage.module), nn.Module) for stage in stages)
        assert isinstance(network.eval()(image), Tensor)

    def test_compiles_as_one_graph(self):
        network = self.build().train()
        network.return_features = True
        image = torch.randn(1, 1, *self.depth, 40, 32)
        gradients = []
        for run in (network, torch.compile(network, backend="eager", fullgraph=True)):
            loss = _sum_of_squares(run(image))
            gradients.append(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True))
        torch.testing.assert_close(*gradients)

    def test_an_exported_program_gives_the_same_and_refuses_other_sizes(self):
        network, image = self.build().eval(), torch.randn(1, 1, *self.depth, 24, 17)
        with torch.no_grad():
            program = torch.export.export(network, (image,)).module()
            torch.testing.assert_close(program(image), network(image))
            with pytest.raises((RuntimeError, AssertionError)):
                program(torch.randn(1, 1, *self.depth, 40, 17))

    def test_a_checkpoint_restores_it_to_the_bit(self):
        network, other = self.build(), self.build()
        tensors = list(network.state_dict(keep_vars=True).values())
        assert len(set(map(id, tensors))) == len(tensors)  # each under one name
        file = io.BytesIO()
        torch.save(network.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        image = torch.randn(1, 1, *self.depth, 33, 20)
        with torch.no_grad():
            assert torch.equal(other.eval()(image), network.eval()(image))
