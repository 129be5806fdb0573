"""Two ranks train together (on the CPU, see ddp_rank.py): projections in step, terms averaged, every rank stops."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch


def two_ranks(tiny_dataset, results, nan_in_step=-1):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, **tiny_dataset.environment, "nnUNet_results": str(results), "NNUNETV2_DSVM_SEED": "3"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "ddp_rank.py"), str(rank), port, str(nan_in_step)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, output in zip(ranks, outputs, strict=True):
        assert rank.returncode == 0, output[-4000:]
    lines = [next(line for line in output.splitlines() if line.startswith("RESULT ")) for output in outputs]
    return [json.loads(line[len("RESULT ") :]) for line in lines]


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_ranks_stay_in_step_and_average_their_terms(tiny_dataset, tmp_path):
    first, second = two_ranks(tiny_dataset, tmp_path)
    assert (first["stopped"], first["steps"], second["steps"]) == ("", 3, 3)
    assert first["weights"] == second["weights"]
    assert first["projections"] == second["projections"]
    own = [rank["own_loss"]["projection"] for rank in (first, second)]
    assert own[0] != own[1]  # each rank saw other images
    assert first["L_proj"] == second["L_proj"] == [pytest.approx(np.mean(own))]
    checkpoint = torch.load(next(tmp_path.rglob("checkpoint_final.pth")), weights_only=False)
    assert not any(name.startswith("module.") for name in checkpoint["nnunetv2_dsvm"]["projections"])


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_every_rank_stops_at_one_ranks_nan(tiny_dataset, tmp_path):
    first, second = two_ranks(tiny_dataset, tmp_path, nan_in_step=1)
    assert (first["steps"], second["steps"]) == (2, 2)
    assert "another GPU's loss is not finite" in first["stopped"]
    assert "the training loss became nan" in second["stopped"]
