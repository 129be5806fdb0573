"""How far a trained model's probabilities agree between backends of the scan.

`python backend_agreement.py CHECKPOINT` compares "triton" with "reference"; one line per measure, see interpreter.py.
"""

import sys

import torch
from helpers.tiny_dataset import NETWORK, tiny_case
from torch import Tensor

from nnunetv2_dsvm import VMUNet


def probabilities(checkpoint: str, backend: str, pixels: int) -> Tensor:
    """The softmax (class, y, x) of a square with half an object, from an image that is not in the training."""
    network = VMUNet(1, 3, **NETWORK, scan_backend=backend).eval()
    network.load_state_dict(torch.load(checkpoint, weights_only=False)["network_weights"])
    image = torch.from_numpy(tiny_case(9, 1)[0][0][:1])
    image = (image - image.mean()) / image.std()
    with torch.inference_mode():
        return network(image[None, :, :pixels, :pixels])[0].softmax(0)


def disagreements(got: Tensor, expected: Tensor) -> dict[str, tuple[float, float]]:
    """By measure, its value and what it may be at most: the softmax's largest difference; 1 - Dice of each class."""
    found = {"softmax": ((got - expected).abs().max().item(), 1e-4)}
    got, expected = got.argmax(0), expected.argmax(0)
    for label in torch.cat([got, expected]).unique().tolist():
        one, other = got == label, expected == label
        found[f"class {label}"] = 1 - 2 * (one & other).sum().item() / (one.sum() + other.sum()).item(), 1e-3
    assert len(found) > 2, "a model that predicts one class alone agrees with anything"
    return found


if __name__ == "__main__":
    both = [probabilities(sys.argv[1], backend, pixels=16) for backend in ("triton", "reference")]
    for name, (value, most) in disagreements(*both).items():
        print(f"{name} {value:.1e} {'ok' if value <= most else 'WRONG'}")
