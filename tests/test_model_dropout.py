"""Our CPU dropout drops what PyTorch's would, at the rate asked for."""

from __future__ import annotations

import pytest
import torch

from model.dropout import Dropout


@pytest.mark.parametrize("rate", [0.05, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_share_dropped_is_the_rate_and_the_mean_stays(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    out = Dropout(rate)(torch.ones(64, 32, 14, 14, dtype=dtype)).float()
    # Five standard errors of the share of 401,408 draws.
    error = 5 * (rate * (1 - rate) / out.numel()) ** 0.5
    assert abs((out == 0).float().mean().item() - rate) < error
    kept = out[out != 0]
    assert kept.unique().numel() == 1
    assert kept[0].item() == pytest.approx(1 / (1 - rate), rel=0.01)


def test_every_position_of_a_word_is_drawn_alike() -> None:
    torch.manual_seed(0)
    out = Dropout(0.3)(torch.ones(400_000))
    shares = [(out[i::4] == 0).float().mean().item() for i in range(4)]
    assert max(shares) - min(shares) < 0.01


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "strided", "odd"])
def test_any_layout_keeps_its_shape_and_its_gradient(layout: str) -> None:
    x = torch.rand(8, 6, 5, 7) + 1
    if layout == "channels last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "strided":
        x = x[:, ::2]
    elif layout == "odd":
        x = x[:1, :1, :3, :1]
    x = x.detach().requires_grad_()
    torch.manual_seed(1)
    out = Dropout(0.5)(x)
    out.sum().backward()
    assert x.grad is not None
    assert out.shape == x.shape
    # Where the output is zero so is the gradient; elsewhere both are scaled by 2.
    torch.testing.assert_close(out, x * x.grad)
    assert set(x.grad.unique().tolist()) <= {0.0, 2.0}


def test_one_seed_gives_one_mask_and_evaluation_drops_nothing() -> None:
    x, dropout = torch.ones(1000), Dropout(0.5)
    torch.manual_seed(3)
    first = dropout(x)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(dropout(x), first)
    assert dropout.eval()(x) is x


def test_whole_channels_are_dropped_together() -> None:
    x = torch.ones(200, 8, 3, 3).to(memory_format=torch.channels_last)
    out = Dropout(0.25, whole_channels=True)(x)
    sums = out.sum(dim=(2, 3))  # (200, 8): 0, or 9 numbers scaled up
    torch.testing.assert_close(sums.unique(), torch.tensor([0.0, 12.0]))
    assert 0.2 < float((sums == 0).float().mean()) < 0.3
