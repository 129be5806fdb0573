"""The convolution's Triton kernels on a CPU, in Triton's interpreter: output and gradients against torch's in fp64."""

import pytest
from interpreter import assert_checks_pass

pytest.importorskip("triton", reason="Triton has no build for this platform")


@pytest.mark.parametrize("case", ["float32", "float16", "bfloat16", "kernel", "programs"])
def test_interpreted(case):
    assert_checks_pass("conv_interpreted.py", case, least=8)
