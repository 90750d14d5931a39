"""Drop elements at random (Srivastava et al., JMLR 2014), fast on a CPU.

PyTorch draws one double per element on a CPU, which cost the notebook's 64-filter network with
dropout half of its training time. Here one 64-bit word serves four elements.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 1 << 16


class Dropout(nn.Module):
    """Zero each element with probability `rate` while training, and scale the others up.

    On a CPU the rate is rounded to a multiple of 1/65536. The draws come from PyTorch's default
    generator, so one seed gives one mask.
    """

    def __init__(self, rate: float, *, whole_channels: bool = False) -> None:
        """Take a rate in [0, 1); `whole_channels` drops all of (N, C, H, W)'s H x W at once.

        Whole channels: Tompson et al., arXiv:1411.4280.
        """
        super().__init__()
        self.rate = rate
        self.whole_channels = whole_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return x of any shape and floating dtype with elements dropped; x itself in eval mode."""
        if not self.training or self.rate == 0.0:
            return x
        if self.whole_channels:
            return F.dropout2d(x, self.rate)  # a draw a channel: nothing to save
        if x.device.type != "cpu":
            return F.dropout(x, self.rate)
        num = x.numel()
        # The whole range of 64 bits: `random_()` alone never sets the sign bit.
        words = torch.empty((num + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        dropped = round(self.rate * _LEVELS)
        keep = words.view(torch.int16)[:num] >= dropped - _LEVELS // 2
        mask = keep.to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped))
        # Laid out in memory as x is (channels last), so that no copy is made.
        return x * mask.as_strided(x.shape, x.stride()) if _is_dense(x) else x * mask.view(x.shape)


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or (
        x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    )
