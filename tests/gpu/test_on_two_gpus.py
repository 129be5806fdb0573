"""DDP with CUDA graphs against one process with the whole batch; needs two GPUs (for the CPU see test_ddp.py)."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch
from helpers.places import TESTS
from helpers.tiny_dataset import PLANS, make_tiny_dataset
from helpers.tiny_volumes import VOLUME, VOLUMES
from helpers.unets import CONFIGURATIONS, UNET_3D
from torch import distributed as dist
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.cuda_graphs import CALLS_BEFORE
from nnunetv2_dsvm.cuda_graphs.averaged_gradients import in_ddp
from nnunetv2_dsvm.distillation import DualSelfDistillation
from nnunetv2_dsvm.training.guards.distributed import parameters_that_differ
from nnunetv2_dsvm.training.loss import SegmentationWithDistillationLoss

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
STEPS = 2 * CALLS_BEFORE + 4
COMMAND_SECONDS = 400  # some ten compilations on each rank
WEIGHTS = {"projection": 1.0, "progressive": 1.0}


def _network_and_distillation(graphs: bool, deep_supervision: bool) -> tuple[VMUNet, DualSelfDistillation]:
    torch.manual_seed(0)
    options = {"deep_supervision": deep_supervision, "auxiliary_heads": deep_supervision, "drop_path_rate": 0.0}
    network = VMUNet.from_preset("small", 1, 2, **options).cuda().train()
    network.return_features = True
    channels = network.encoder.output_channels
    distillation = DualSelfDistillation(channels, channels).cuda()
    network.cuda_graphs.training = distillation.cuda_graphs.training = graphs
    return network, distillation


class CrossEntropy(nn.Module):
    """The deep outputs count too, as in nnU-Net: no parameter may be without a gradient."""

    def forward(self, logits, target):
        heads = logits if isinstance(logits, list) else [logits]
        scales = [target.shape[-1] // head.shape[-1] for head in heads]
        pairs = [(head, target[:, ::scale, ::scale]) for head, scale in zip(heads, scales, strict=True)]
        return sum(nn.functional.cross_entropy(*pair) for pair in pairs)


def _steps(network, distillation, loss, batch_slice):
    """Losses, and the gradients of the last step."""
    modules = [m.module if isinstance(m, DistributedDataParallel) else m for m in (network, distillation)]
    parameters = [p for m in modules for p in m.parameters()]
    optimizer = torch.optim.SGD(parameters, 0.01)
    random = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(STEPS):
        images = torch.randn(4, 1, 64, 64, generator=random)[batch_slice].cuda()
        target = torch.randint(2, (4, 64, 64), generator=random)[batch_slice].cuda()
        optimizer.zero_grad(set_to_none=True)
        value = loss(network(images), target)
        value.backward()
        optimizer.step()
        losses.append(value.detach().clone())
    return torch.stack(losses), torch.cat([p.grad.flatten() for p in parameters])


def _rank(rank: int, port: int, deep_supervision: bool) -> None:
    torch.cuda.set_device(rank)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # half a batch is convolved by other kernels than a whole one
    dist.init_process_group("nccl", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    network, distillation = _network_and_distillation(True, deep_supervision)
    wrapped = [in_ddp(m) for m in (network, distillation)]
    loss = SegmentationWithDistillationLoss(CrossEntropy(), wrapped[1], WEIGHTS, 0)
    losses, gradients = _steps(*wrapped, loss, slice(2 * rank, 2 * rank + 2))
    assert len(network.cuda_graphs.graphs) == len(distillation.cuda_graphs.graphs) == 1
    assert 0 < len(network.cuda_graphs.graphs[0].first) < len(list(network.parameters()))  # averaged ahead
    assert parameters_that_differ([network, distillation]) == []
    for module in (network, distillation):
        places = module.cuda_graphs.averaged.places
        assert all(p.grad.data_ptr() == places[p].data_ptr() for p in module.parameters())
    dist.all_reduce(losses, op=dist.ReduceOp.AVG)
    if rank == 0:
        plain = _network_and_distillation(False, deep_supervision)
        plain_loss = SegmentationWithDistillationLoss(CrossEntropy(), plain[1], WEIGHTS, 0)
        expected, expected_gradients = _steps(*plain, plain_loss, slice(None))
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=0)
        assert (gradients - expected_gradients).norm() <= 1e-3 * expected_gradients.norm()
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_two_gpus_with_graphs_take_the_steps_of_one_without(deep_supervision):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_rank, (port, deep_supervision), nprocs=2, join=True)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_tiny_dataset(tmp_path_factory.mktemp("two_gpus"), {**CONFIGURATIONS, **VOLUMES})


@pytest.mark.parametrize(("trainer", "configuration"), [("ShortDistilled", UNET_3D), ("ShortDSVM", VOLUME)])
def test_nnunets_command_trains_volumes_on_two_gpus(dataset, tmp_path, trainer, configuration):
    """As users call it: NCCL, nnU-Net's network compiled, ours by CUDA graphs. Ranks that differ end the training."""
    (tmp_path / "trainers.py").write_text("from helpers.short_trainers import *\n")
    environment = {**dataset.environment, "nnUNet_extTrainer": str(tmp_path), "nnUNet_results": str(tmp_path)}
    if trainer == "ShortDistilled":
        environment["nnUNet_compile"] = "t"
    environment["PYTHONFAULTHANDLER"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    what = ["901", configuration, "0", "-tr", trainer, "-p", PLANS, "-num_gpus", "2"]
    command = [sys.executable, "-m", "nnunetv2.run.run_training", *what]
    log = tmp_path / "log"
    with open(log, "w") as output:
        run = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=output, start_new_session=True
        )
    try:
        run.wait(timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGABRT)  # each process says where it is
        time.sleep(2)
        pytest.fail(f"not over after {COMMAND_SECONDS} s:\n{log.read_text()[-20000:]}")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    assert run.returncode == 0, log.read_text()[-6000:]
    checkpoint = torch.load(next(tmp_path.rglob("checkpoint_final.pth")), weights_only=False)
    terms = torch.tensor(checkpoint["logging"]["L_proj"])
    assert len(terms) == 3 and terms.isfinite().all() and (terms > 0).all()
    assert list(tmp_path.rglob("validation/summary.json"))


def test_a_network_runs_on_its_own_gpu_whichever_is_the_current_one():
    network, _ = _network_and_distillation(False, False)
    image = torch.randn(1, 1, 64, 64)
    outputs = []
    for device in ("cuda:0", "cuda:1"):
        on_device = network.to(device)
        output = on_device(image.to(device)).logits
        gradients = torch.autograd.grad(output.square().mean(), list(on_device.parameters()), allow_unused=True)
        outputs.append([t.cpu() for t in (output, *gradients) if t is not None])
    for first, second in zip(*outputs, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)
