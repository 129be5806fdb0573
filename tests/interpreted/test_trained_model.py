"""A trained model on the Triton kernels; `tests/ops/test_backend_agreement.py` trains it and names its checkpoint."""

import os

import pytest
from helpers.backend_agreement import assert_backends_agree

CHECKPOINT = os.environ.get("TRAINED_CHECKPOINT")


@pytest.mark.skipif(CHECKPOINT is None, reason="TRAINED_CHECKPOINT names no checkpoint")
def test_triton_predicts_as_the_reference():
    assert_backends_agree(CHECKPOINT, "triton", "reference", pixels=16)
