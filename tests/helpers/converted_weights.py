"""Weights to be converted, and what they make of an image."""

import json

from helpers.scan_inputs import relative_error
from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.planning.architecture_entry import architecture_entry


def write_plans(folder, sizes):
    configuration = {"patch_size": [32, 64], "architecture": architecture_entry(sizes)}
    plans = {"plans_name": "goldenPlans", "dataset_name": "Dataset001", "configurations": {"2d": configuration}}
    (folder / "plans.json").write_text(json.dumps(plans))
    return folder / "plans.json"


def features(weights, golden):
    sizes, _, tensors = golden
    network = VMUNet(3, 4, **sizes)
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert not unexpected and all(".seg_layers." in name for name in missing)
    network.return_features = True
    return network(tensors["input"])


def assert_golden_features(weights, golden, sides):
    output = features(weights, golden)
    for side in sides:
        for level, got in enumerate(getattr(output, f"{side}_features"), start=1):
            assert relative_error(got, golden[2][f"feature/{side}_stage_{level}"]) <= 1e-5


def prefixed(weights, prefix):
    return {prefix + name: tensor for name, tensor in weights.items()}
