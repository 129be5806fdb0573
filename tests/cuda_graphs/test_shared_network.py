"""One network that several threads use at the same time, with a stand-in for the graphs where there is no GPU."""

import asyncio
import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.recorded_here import GraphsHere, MemoryHere
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.cuda_graphs import CALLS_BEFORE, CudaGraphs

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
SIZES = {"dims": (8, 16), "encoder_depths": (1, 1), "decoder_depths": (1, 1), "d_state": 2}
THREADS = 4
ANSWERS = 12  # of each thread


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch, one_thread):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(MemoryHere, "while_recording", None)
    return request.param


def network_on(device: str, **options) -> VMUNet:
    network = VMUNet(1, 2, **SIZES, **options).eval()
    network.cuda_graphs = CudaGraphs() if device == "cuda" else GraphsHere()
    return network.to(device)


def without_graphs(network: VMUNet) -> VMUNet:
    plain = copy.deepcopy(network)
    plain.cuda_graphs = CudaGraphs(inference=False, training=False)
    return plain


def images_and_answers(network: VMUNet, device: str) -> tuple[list[Tensor], list[Tensor]]:
    images = [torch.randn(1, 1, 32, 32, device=device) for _ in range(THREADS)]
    with torch.no_grad():
        return images, [without_graphs(network)(x) for x in images]


@torch.no_grad()
def record(network: nn.Module, image: Tensor) -> None:
    """Graphs are recorded while one thread calls."""
    for _ in range(CALLS_BEFORE + 1):
        network(image)
    assert len(network.cuda_graphs.graphs) == 1


@torch.no_grad()
def count_wrong(network: nn.Module, image: Tensor, answer: Tensor, stream: "torch.cuda.Stream | None" = None) -> int:
    with torch.cuda.stream(stream):
        answers = [network(image) for _ in range(ANSWERS)]
        return sum(not torch.allclose(given, answer, atol=1e-5) for given in answers)


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded before", "not recorded"])
def test_threads_get_their_own_answers(device, recorded):
    network = network_on(device)
    images, answers = images_and_answers(network, device)
    if recorded:
        record(network, images[0])
    with ThreadPoolExecutor(THREADS) as pool:
        wrong = list(pool.map(count_wrong, [network] * THREADS, images, answers))
    assert wrong == [0] * THREADS
    assert len(network.cuda_graphs.graphs) == recorded
    if recorded and device == "cpu":
        assert network.cuda_graphs.graphs[0].replays > THREADS * ANSWERS


def test_tasks_of_asyncio_get_their_own_answers(device):
    network = network_on(device)
    images, answers = images_and_answers(network, device)
    record(network, images[0])

    async def serve() -> list[int]:
        calls = (asyncio.to_thread(count_wrong, network, x, y) for x, y in zip(images, answers, strict=True))
        return await asyncio.gather(*calls)

    assert asyncio.run(serve()) == [0] * THREADS


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("backend", ["auto", "torch_chunked"])
@pytest.mark.parametrize("threads", [1, THREADS])
def test_streams_get_their_own_answers(threads, backend):
    network = network_on("cuda", scan_backend=backend)
    images, answers = images_and_answers(network, "cuda")
    record(network, images[0])
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in images]
    with ThreadPoolExecutor(threads) as pool:
        wrong = list(pool.map(count_wrong, [network] * THREADS, images, answers, streams))
    assert wrong == [0] * THREADS
    assert len(network.cuda_graphs.graphs) == 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_networks_on_two_gpus_of_one_process():
    for device in ("cuda:0", "cuda:1"):
        network = network_on("cuda").to(device)
        images, answers = images_and_answers(network, device)
        for x, y in zip(images, answers, strict=True):
            assert count_wrong(network, x, y) == 0
        assert len(network.cuda_graphs.graphs) == 1
    parallel = nn.DataParallel(network.to("cuda:0"))
    with torch.no_grad():
        for _ in range(CALLS_BEFORE + 3):
            torch.testing.assert_close(parallel(torch.cat(images).to("cuda:0")).cpu(), torch.cat(answers).cpu())


def gradients(network: VMUNet, image: Tensor, between: Callable[[], object] = lambda: None) -> list[Tensor]:
    network.zero_grad(set_to_none=True)
    loss = network(image).square().mean()
    between()
    loss.backward()
    return [p.grad.clone() for p in network.parameters()]


def test_a_network_that_another_thread_trains(device):
    """Each gradient and each answer is right, although answers are given between a forward and its backward too."""
    network = network_on(device)
    network.cuda_graphs.training = True
    images, answers = images_and_answers(network, device)
    expected = gradients(without_graphs(network), images[0])
    record(network, images[0])
    for _ in range(CALLS_BEFORE + 1):
        gradients(network, images[0])
    stop, wrong = threading.Event(), []

    def serve() -> None:
        while not stop.is_set():
            wrong.append(count_wrong(network, images[1], answers[1]))

    with ThreadPoolExecutor(2) as pool:
        served = pool.submit(serve)
        try:
            for _ in range(CALLS_BEFORE + 4):
                between = pool.submit(count_wrong, network, images[2], answers[2])
                got = gradients(network, images[0], between.result)
                for ours, right in zip(got, expected, strict=True):
                    torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-6)
        finally:
            stop.set()
        served.result()
    assert wrong and not any(wrong)
    assert len(network.cuda_graphs.graphs) == 2  # one for training, one for all who infer


def test_of_two_threads_that_train_neither_loses_a_gradient(device, caplog):
    network = network_on(device)
    network.cuda_graphs.training = True
    images, _ = images_and_answers(network, device)
    plain, steps = without_graphs(network), CALLS_BEFORE + 3
    for x in images[:2]:
        for _ in range(2 * steps):
            plain(x).square().mean().backward()

    def train(x: Tensor) -> None:
        for _ in range(steps):
            network(x).square().mean().backward()

    train(images[0])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train, (images[1], images[0])))
    train(images[1])
    for ours, right in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, right.grad, rtol=1e-4, atol=1e-5)
    assert not network.cuda_graphs.graphs
    assert "two threads call a network with autograd" in caplog.text


def test_weights_converted_by_autocast_for_an_inference_have_no_part_in_a_training(device):
    """Autocast's cache is the process's: what one call converts without a gradient, another would train with."""
    network = network_on(device)
    image = torch.randn(1, 1, 16, 16, device=device)
    with torch.autocast(device, torch.bfloat16):
        with torch.no_grad():
            network(image)
        network.train()(image).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_while_one_thread_records_others_use_the_network_as_it_is(device, monkeypatch):
    """Its parameters stay in their places, a gradient reaches them, its mode may be switched, and nobody waits."""
    if device == "cuda":
        pytest.skip("the stand-in is needed to do something during a recording")
    network = network_on(device, drop_path_rate=0.9)
    images, answers = images_and_answers(network, device)
    parameters = list(network.parameters())
    seen = []

    def meanwhile() -> None:
        with torch.enable_grad():
            seen.append([a is b for a, b in zip(parameters, network.parameters(), strict=True)])
            network(images[1]).sum().backward()
        seen.append([p.grad is not None for p in parameters])
        seen.append([count_wrong(network, images[2], answers[2]) == 0])
        network.train()

    def in_another_thread() -> None:
        thread = threading.Thread(target=meanwhile)
        thread.start()
        thread.join(60)
        seen.append([not thread.is_alive()])

    monkeypatch.setattr(MemoryHere, "while_recording", staticmethod(in_another_thread))
    with torch.no_grad():
        for _ in range(CALLS_BEFORE + 1):
            torch.testing.assert_close(network(images[0]), answers[0])
    assert len(seen) == 4 and all(all(part) for part in seen)
    network.eval()
    assert count_wrong(network, images[0], answers[0]) == 0
    assert len(network.cuda_graphs.graphs) == 1


def test_a_copy_and_a_replica_share_nothing(device):
    network = network_on(device)
    images, answers = images_and_answers(network, device)
    assert count_wrong(network, images[0], answers[0]) == 0
    twin = copy.deepcopy(network)
    with torch.no_grad():
        twin.decoder.seg_layers[0].bias += 1
    assert count_wrong(twin, images[0], answers[0] + 1) == count_wrong(network, images[0], answers[0]) == 0
    assert not {id(graph) for graph in twin.cuda_graphs.graphs} & {id(graph) for graph in network.cuda_graphs.graphs}
    assert count_wrong(network._replicate_for_data_parallel(), images[1], answers[1]) == 0
