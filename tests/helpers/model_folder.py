"""A model folder without a training."""

import json

import torch


def write_model_folder(folder, network, plans, dataset_json, configuration="2d", fold="0", relative=None):
    """A model folder as nnU-Net leaves it, with the weights of a network that was not trained."""
    (folder / f"fold_{fold}").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    checkpoint = {
        "network_weights": network.state_dict(),
        "init_args": {"configuration": configuration},
        "trainer_name": f"nnUNetTrainer{relative or 'VMUNet'}",
        **({"nnunetv2_dsvm": {"network": relative}} if relative else {}),
    }
    torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder
