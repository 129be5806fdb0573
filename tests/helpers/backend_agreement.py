"""How far a trained model's probabilities agree between backends of the scan."""

import torch
from torch import Tensor

from helpers.tiny_dataset import NETWORK, tiny_case
from nnunetv2_dsvm import VMUNet


def probabilities(checkpoint: str, backend: str, pixels: int) -> Tensor:
    """The softmax (class, y, x) of a square with half an object, from an image that is not in the training."""
    network = VMUNet(1, 3, **NETWORK, scan_backend=backend).eval()
    network.load_state_dict(torch.load(checkpoint, weights_only=False)["network_weights"])
    image = torch.from_numpy(tiny_case(9, 1)[0][0][:1])
    image = (image - image.mean()) / image.std()
    with torch.inference_mode():
        return network(image[None, :, :pixels, :pixels])[0].softmax(0)


def assert_backends_agree(checkpoint: str, backend: str, other: str, pixels: int) -> None:
    """The softmax differs by 1e-4 at most, each class has a Dice of 0.999 at least."""
    got, expected = (probabilities(checkpoint, name, pixels) for name in (backend, other))
    assert (got - expected).abs().max() <= 1e-4
    got, expected = got.argmax(0), expected.argmax(0)
    labels = torch.cat([got, expected]).unique().tolist()
    assert len(labels) > 1, "a model that predicts one class alone agrees with anything"
    for label in labels:
        one, same = got == label, expected == label
        assert 2 * (one & same).sum() / (one.sum() + same.sum()) >= 0.999, label
