"""Compute several networks of one shape at once, each on its own images.

Axes: M networks, N images, C channels, H height, W width, F filters or features, K classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.average import decay_at
from model.cnn import CNN, Block, Squeeze
from model.dropout import Dropout
from model.fused_dropout import Draws, Dropouts
from model.fused_layout import Layout, flatten
from model.train import Training

_STATISTICS, _TRACKED = ("running_mean", "running_var"), "num_batches_tracked"


class FusedNetwork:
    """Hold a copy of M networks' weights, joined layer by layer.

    Horizontal fusion (Wang et al., HFTA, arXiv:2102.02344, section 3): a convolution of M networks
    is one grouped convolution over their channels side by side, a batch norm is one over M times
    the channels, a linear layer a batched matrix product. Small networks leave most of a GPU idle
    and its host busy with launches; M of them take as many launches as one.

    `torch.func.stack_module_state` with `torch.vmap` would do the same without the forward pass
    below, but it turns each convolution into a grouped one as well and moves the networks' axis
    around every layer; here maps stay (N, M x F, H, W), channels last, from end to end.
    """

    def __init__(self, models: Sequence[CNN]) -> None:
        """Take networks that differ in their weights, pixel statistics and dropout rates only."""
        self._models = tuple(models)
        self._first = first = models[0]
        device = first.mean.device
        parameters = [dict(model.named_parameters()) for model in models]
        statistics = [
            {name: t for name, t in model.named_buffers() if name.endswith(_STATISTICS)}
            for model in models
        ]
        self.layout = Layout({name: p.shape for name, p in parameters[0].items()}, len(models))
        self.flat = self.layout.pack(parameters)
        self._weights = {
            name: joined.detach().requires_grad_()
            for name, joined in self.layout.joined(self.flat).items()
        }
        self.buffers = Layout({name: t.shape for name, t in statistics[0].items()}, len(models))
        self.flat_statistics = self.buffers.pack(statistics)
        self._statistics = self.buffers.joined(self.flat_statistics)
        # (M,) int64, on the host: all batch norms of a network have seen as many batches.
        self.tracked = torch.tensor([_batches_tracked(model) for model in models])
        self._mean = torch.cat([model.mean for model in models], dim=1)
        self._std = torch.cat([model.std for model in models], dim=1)
        self._block_dropouts = [
            Dropouts([_dropout(model.blocks[number]) for model in models], device)
            for number in range(len(first.blocks))
        ]
        self._head_dropouts = Dropouts([model.dropout for model in models], device)

    def logits(self, images: Sequence[Tensor], draws: Draws | None) -> Tensor:
        """Return logits (M, N, K) float32 for each network's own images (N, C, H, W) uint8.

        With `draws` as in training; without, as in evaluation.
        """
        if draws is not None:
            self.tracked += 1
        pixels = torch.cat(list(images), dim=1).contiguous(memory_format=torch.channels_last)
        x = (pixels.float() - self._mean) / self._std  # (N, M x C, H, W)
        for number in range(len(self._first.blocks)):
            x = self._block(number, x, draws)
        if self._first.average:
            x = torch.unflatten(x.mean(dim=(2, 3)), 1, (len(self._models), -1))
        else:
            x = torch.unflatten(x, 1, (len(self._models), -1)).flatten(2)
        x = x.transpose(0, 1)  # (M, N, F)
        if self._first.hidden is not None:
            x = F.relu(self._linear("hidden", x))
        if draws is not None:
            x = draws.features(x, self._head_dropouts)
        return self._linear("classifier", x).float()

    def gradient(self, loss: Tensor) -> Tensor:
        """Return the gradient of `loss` for all weights, laid out as `flat` is."""
        return flatten(torch.autograd.grad(loss, list(self._weights.values())))

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy weights and statistics into the networks."""
        for number, model in enumerate(self._models):
            weights = self.layout.of(self.flat, number)
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
            statistics = self.buffers.of(self.flat_statistics, number)
            for name, buffer in model.named_buffers():
                if name in statistics:
                    buffer.copy_(statistics[name])
                elif name.endswith(_TRACKED):
                    buffer.fill_(int(self.tracked[number]))

    def _block(self, number: int, x: Tensor, draws: Draws | None) -> Tensor:
        """Do what `model.cnn.Block` does, for all networks."""
        block, name, training = self._first.blocks[number], f"blocks.{number}", draws is not None
        assert isinstance(block, Block)
        x = block.pool(self._convolution(f"{name}.conv1", block.conv1, x))
        x = self._norm(f"{name}.norm1", block.norm1, x, training)
        if block.conv2 is not None:
            x = F.relu(x)
            y = self._convolution(f"{name}.conv2", block.conv2, x)
            y = self._norm(f"{name}.norm2", block.norm2, y, training)
            y = self._squeeze(f"{name}.squeeze", block.squeeze, y)
            x = x + y if block.residual else y
        else:
            x = self._squeeze(f"{name}.squeeze", block.squeeze, x)
        x = F.relu(x)
        return x if draws is None else draws.maps(x, self._block_dropouts[number])

    def _convolution(self, name: str, layer: nn.Conv2d, x: Tensor) -> Tensor:
        return F.conv2d(
            x,
            self._weights[f"{name}.weight"],
            self._weights.get(f"{name}.bias"),
            stride=layer.stride,
            padding=layer.padding,
            groups=len(self._models),
        )

    def _norm(self, name: str, layer: nn.BatchNorm2d | None, x: Tensor, training: bool) -> Tensor:
        if layer is None:
            return x
        assert layer.momentum is not None
        return F.batch_norm(
            x,
            self._statistics[f"{name}.running_mean"],
            self._statistics[f"{name}.running_var"],
            self._weights[f"{name}.weight"],
            self._weights[f"{name}.bias"],
            training=training,
            momentum=layer.momentum,
            eps=layer.eps,
        )

    def _squeeze(self, name: str, layer: Squeeze | None, x: Tensor) -> Tensor:
        if layer is None:
            return x
        means = torch.unflatten(x.mean(dim=(2, 3)), 1, (len(self._models), -1)).transpose(0, 1)
        gate = self._linear(f"{name}.up", F.relu(self._linear(f"{name}.down", means)))  # (M, N, F)
        return x * torch.sigmoid(gate).transpose(0, 1).flatten(1)[:, :, None, None]

    def _linear(self, name: str, x: Tensor) -> Tensor:
        """Return (M, N, outputs) for (M, N, inputs)."""
        bias = self._weights[f"{name}.bias"].view(len(self._models), 1, -1)
        weight = torch.unflatten(self._weights[f"{name}.weight"], 0, (len(self._models), -1))
        return torch.baddbmm(bias, x, weight.transpose(1, 2))


class FusedAverage:
    """Hold the moving averages of M networks' weights and statistics, each of its own decay.

    The arithmetic of `model.average`. With a decay of 0, which is no average, it is the network
    itself.
    """

    def __init__(self, trainings: Sequence[Training], trained: FusedNetwork) -> None:
        """Take over the trainings' own averages; `trained` is what is averaged after each step."""
        self.network = FusedNetwork([training.network for training in trainings])
        self._trainings = tuple(trainings)
        self._trained = trained
        self._decays = [training.configuration.training.ema for training in trainings]
        # As many as every other's that has an average: all are at the same epoch.
        self._steps = max((t.average.steps for t in trainings if t.average is not None), default=0)
        self._weights_of = trained.layout.owners().to(trained.flat.device)
        self._statistics_of = trained.buffers.owners().to(trained.flat_statistics.device)
        self._shares = torch.empty(0)

    def begin_epoch(self, num_batches: int) -> None:
        """Work out on the device how much each step's weights count in each average."""
        steps = range(self._steps + 1, self._steps + num_batches + 1)
        shares = [[1.0 - decay_at(decay, step) for decay in self._decays] for step in steps]
        self._shares = torch.tensor(shares, device=self.network.flat.device)  # (steps, M)
        self._steps += num_batches

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Let the weights after step `step` (from 0) of the epoch into the averages."""
        ours, theirs = self.network, self._trained
        share = self._shares[step]
        ours.flat.lerp_(theirs.flat, share.index_select(0, self._weights_of))
        ours.flat_statistics.lerp_(
            theirs.flat_statistics, share.index_select(0, self._statistics_of)
        )
        ours.tracked.copy_(theirs.tracked)

    def write_back(self) -> None:
        """Let every training hold its own average.

        To be called before the networks themselves are written back: where a training has no
        average, it is the network that is written to.
        """
        self.network.write_back()
        for training in self._trainings:
            if training.average is not None:
                training.average.steps = self._steps


def _batches_tracked(model: CNN) -> int:
    counts = (int(b) for name, b in model.named_buffers() if name.endswith(_TRACKED))
    return next(counts, 0)


def _dropout(block: nn.Module) -> Dropout | None:
    assert isinstance(block, Block)
    return block.dropout
