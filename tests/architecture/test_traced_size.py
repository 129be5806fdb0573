"""torch.jit.trace and its like, which keep what was done with one image."""

import warnings

import pytest
import torch

from nnunetv2_dsvm.architecture.vm_unet import VMUNet


@pytest.fixture
def network(one_thread) -> VMUNet:
    return VMUNet(1, 2, dims=(8, 16), encoder_depths=(1, 1), decoder_depths=(1, 1), d_state=2).eval()


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize(("autograd", "width"), [(False, 17), (True, 18)])  # of each size it says so once
def test_a_traced_network_names_the_export_and_refuses_other_sizes(network, autograd, width):
    image = torch.randn(2, 1, 24, width)
    with torch.set_grad_enabled(autograd), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        traced = torch.jit.trace(network, torch.randn(1, 1, 24, width))
    said = [str(w.message) for w in seen if w.category is not FutureWarning]
    assert len(said) == 1 and f"images of 24x{width} only" in said[0] and "`nnUNetv2_dsvm export`" in said[0]
    with torch.no_grad():
        torch.testing.assert_close(traced(image), network(image))
    for size in ((width, 24), (48, width), (24, 24), (1, width), (24, 1)):
        with pytest.raises(RuntimeError, match="split_with_sizes"):
            traced(torch.randn(1, 1, *size))
    image[0, 0, 3, 4] = torch.nan
    assert traced(image).isinf().all()  # not NaN, which would become background


def test_a_symbolic_trace_is_refused(network):
    with pytest.raises(torch.fx.proxy.TraceError):
        torch.fx.symbolic_trace(network)
