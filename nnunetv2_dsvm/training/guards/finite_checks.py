"""Which images, parameters and gradients are not finite."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn


def cases_not_finite(batch: Mapping[str, Any]) -> list[str]:
    """The identifiers of the cases of one of nnU-Net's batches whose images hold NaN or infinite values."""
    finite = batch["data"].flatten(1).isfinite().all(dim=1).tolist()
    keys = batch.get("keys", range(len(finite)))
    return sorted({str(key) for key, good in zip(keys, finite, strict=True) if not good})


def dataset_cases_not_finite(dataset: nnUNetBaseDataset) -> list[str]:
    """The same for all cases of a preprocessed dataset; reads every image."""
    return [case for case in dataset.identifiers if not np.isfinite(dataset.load_case(case)[0][:]).all()]


def ct_channels_not_finite(plans: PlansManager, configuration: ConfigurationManager) -> list[str]:
    """The channels that nnU-Net normalises by a mean and deviation over all cases which are not finite."""
    schemes = enumerate(configuration.normalization_schemes)
    channels = [str(channel) for channel, scheme in schemes if scheme == "CTNormalization"]
    statistics = plans.foreground_intensity_properties_per_channel
    return [c for c in channels if not np.isfinite([statistics[c]["mean"], statistics[c]["std"]]).all()]


def parameters_not_finite(modules: Iterable[nn.Module]) -> tuple[list[str], int]:
    """The names of the parameters that hold NaN or infinite values, and the number of all parameters."""
    named = [item for module in modules for item in module.named_parameters()]
    finite = torch.stack([parameter.detach().isfinite().all() for _, parameter in named])
    if finite.all():
        return [], len(named)
    return [name for (name, _), good in zip(named, finite.tolist(), strict=True) if not good], len(named)


def gradients_finite(modules: Iterable[nn.Module]) -> bool:
    """Whether no parameter has a gradient that is NaN or infinite."""
    gradients = (parameter.grad for module in modules for parameter in module.parameters())
    return all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None)
