import torch.nn.functional as F
from torch import nn

from nnunetv2_dsvm.architecture.stage_info import FeaturesOutput


class Relative(nn.Module):
    return_features = False

    def forward(self, x):
        sizes = x.shape[2:]
        total = self.encoder_stages[-1].stride
        padding = [n for size, s in zip(reversed(sizes), reversed(total)) for n in (0, -size % s)]
        logits, encoder, decoder = self._forward_padded(F.pad(x, padding))
        logits = [
            t[(..., *(slice(-(-n // s)) for n, s in zip(sizes, (strides,) * len(sizes) if isinstance(strides, int) else strides)))]
            for t, strides in zip(logits, self.output_strides)
        ]
        logits = logits if self.decoder.deep_supervision else logits[0]
        if self.training and self.return_features:
            return FeaturesOutput(logits, tuple(encoder), tuple(decoder))
        return logits
