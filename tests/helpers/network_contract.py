"""What every network of this package can do; a network's test class says how it is built and adds what is its own."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from helpers.golden_files import read_golden
from nnunetv2_dsvm.architecture.segmentation_network import per_axis


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
    tolerance_in_fp64 = 1e-6

    def build(self, input_channels: int = 1, num_classes: int = 2, **options: Any) -> nn.Module:
        """The smallest network that still has all parts and no randomness; `options` are its own, as heads."""
        raise NotImplementedError

    def build_golden(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
        """The network of the golden file, with its weights, given under the official names; no stochastic depth."""
        raise NotImplementedError

    def official_name(self, ours: str) -> str:
        """Of a parameter, as the golden file names it."""
        raise NotImplementedError

    def test_golden_numbers(self):
        """Outputs and features in fp32 and fp64; gradients in fp64, of what outputs depend on by more than noise."""
        golden = read_golden(self.golden_file)
        network = self.build_golden(golden.config, golden.weights).train()
        network.return_features = True
        for module in network.modules():
            if isinstance(module, _BatchNorm):  # the official numbers are those of evaluation
                module.eval()
        for dtype, tolerance in ((torch.float32, self.tolerance), (torch.float64, self.tolerance_in_fp64)):
            image = golden.tensors["input"].detach().to(dtype, copy=True).requires_grad_()
            output = network.to(dtype)(image)
            results = dict(self._golden_results(network, output))
            errors = {name: golden.error(name, result) for name, result in results.items()}
            assert {name: error for name, error in errors.items() if not error <= tolerance} == {}
        given = {name: golden.tensors.get(f"output_grad{name.removeprefix('output')}") for name in results}
        sum((results[name] * grad).sum() for name, grad in given.items() if grad is not None).backward()
        norms = {n: p.grad.norm().item() for n, p in network.named_parameters() if p.grad is not None}
        real = {name: norm for name, norm in norms.items() if norm > 1e-9}
        official = {name: golden.grad_norms[self.official_name(name)] for name in real}
        assert real == pytest.approx(official, rel=self.tolerance_in_fp64) and real
        if image.grad.norm() > 1e-6:
            assert golden.error("input_grad", image.grad) <= self.tolerance_in_fp64
            assert {name for name, norm in golden.grad_norms.items() if norm > 1e-9} == {*map(self.official_name, real)}

    def _golden_results(self, network: nn.Module, output: Any) -> Iterator[tuple[str, Tensor]]:
        logits = output.logits if isinstance(output.logits, list) else [output.logits]
        yield from zip(["output", *(f"output_{i}" for i in range(2, 1 + len(logits)))], logits, strict=True)
        for side in ("encoder", "decoder"):
            features = getattr(output, f"{side}_features")
            assert len(features) == len(network.encoder_stages if side == "encoder" else network.decoder_stages)
            yield from ((f"feature/{side}_stage_{level}", feature) for level, feature in enumerate(features, 1))

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
        strides = [per_axis(stride, len(sizes)) for stride in network.output_strides]
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

    def test_what_the_classes_decide_is_named_as_heads_are(self):
        """nnU-Net's -pretrained_weights leaves these names out, and refuses any other weight of another shape."""
        two, three = (self.build(1, classes, deep_supervision=True).state_dict() for classes in (2, 3))
        assert all(".seg_layers." in name for name in two if two[name].shape != three[name].shape)

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
