"""Small networks, one for each way in which layers are coupled."""

import functools

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everyone calls it

from edgekit.graph.capture import capture


class Residual(nn.Module):
    """A ResNet-8 layout with a strided shortcut."""

    def __init__(self, widths=(8, 16, 24), classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.ModuleList(
            _Block(i, o, 1 if i == o else 2)
            for i, o in zip((widths[0], *widths), widths, strict=False)
        )
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        for block in self.blocks:
            x = block(x)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class _Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(o)
        self.down = None if i == o else nn.Conv2d(i, o, 1, stride)

    def forward(self, x):
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        y += x if self.down is None else self.down(x)
        return F.relu_(y)


class Padded(nn.Module):
    """CIFAR ResNet's parameter-free shortcut: strided, channels padded with zeros."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.c = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = torch.sigmoid(self.a(x))
        y = self.b(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.c(torch.sigmoid(y))


class Dense(nn.Module):
    """A dense block: every layer reads all that came before."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, 6, 3, padding=1))
            for c in (8, 14, 20)
        )
        self.head = nn.Conv2d(26, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(torch.sigmoid(x)).mean((2, 3))


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 6, 1)
        self.b = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ELU(), nn.Conv2d(8, 10, 3, padding=1))
        self.c = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(3, 4, 1))
        self.norm = nn.BatchNorm2d(23)
        self.out = nn.Conv2d(23, 5, 3, stride=2)

    def forward(self, x):
        return self.out(F.hardswish(self.norm(torch.cat([self.a(x), self.b(x), self.c(x), x], 1))))


class MobileNet(nn.Module):
    """Inverted residuals with squeeze and excitation."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.expand = nn.Conv2d(8, 24, 1)
        self.norm = nn.BatchNorm2d(24)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False)
        self.multiplied = nn.Conv2d(24, 48, 3, padding=1, groups=24)
        self.squeeze = nn.Conv2d(48, 6, 1)
        self.excite = nn.Conv2d(6, 48, 1)
        self.project = nn.Conv2d(48, 8, 1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu6(self.stem(x))
        y = F.relu6(self.norm(self.expand(x)))
        y = F.silu(self.multiplied(F.relu6(self.depthwise(y))))
        gate = F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))
        y = y * F.hardsigmoid(self.excite(gate))
        x = x + self.project(y)
        return self.fc(x.mean([2, 3]))


class Grouped(nn.Module):
    """Few wide groups (channels go within groups) and many narrow ones (groups go whole)."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 24, 1)
        self.wide = nn.Conv2d(24, 36, 3, padding=1, groups=3)
        self.b = nn.Conv2d(36, 32, 1)
        self.narrow = nn.Conv2d(32, 16, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(16, 24, 2, 2, groups=2)
        self.up_narrow = nn.ConvTranspose2d(24, 24, 2, 2, groups=12)
        self.out = nn.Conv2d(24, 3, 1)

    def forward(self, x):
        x = torch.sigmoid(self.wide(torch.tanh(self.a(x))))
        x = torch.sigmoid(self.narrow(torch.sigmoid(self.b(x))))
        return self.out(F.gelu(self.up_narrow(F.softplus(self.up(x)))))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU())
        self.bottom = nn.Conv2d(16, 24, 3, padding=1)
        self.up2 = nn.ConvTranspose2d(24, 16, 2, 2)
        self.merge2 = nn.Conv2d(32, 16, 3, padding=1)
        self.merge1 = nn.Conv2d(24, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        y = F.leaky_relu(self.bottom(F.avg_pool2d(two, 2)))
        y = F.relu(self.merge2(torch.cat([two, self.up2(y)], 1)))
        y = F.interpolate(y, scale_factor=2, mode="bilinear")
        return self.head(F.relu(self.merge1(torch.cat([y, one], 1))))


class Flattened(nn.Module):
    """C·H·W flattened into a linear layer, sizes written into the source."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.act = nn.PReLU(12)
        self.fc1 = nn.Linear(12 * 16, 20)
        self.norm = nn.BatchNorm1d(20)
        self.fc2 = nn.Linear(20, 5)

    def forward(self, x):
        x = F.max_pool2d(self.act(self.conv(x)), 2)
        x = x.view(-1, 12 * 4 * 4)
        return self.fc2(torch.sigmoid(self.norm(self.fc1(x))))


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 16, 3, 2, 1)
        self.encode = nn.Linear(16 * 16, 12)
        self.decode = nn.Linear(12, 16 * 16)
        self.up = nn.ConvTranspose2d(16, 3, 4, 2, 1)

    def forward(self, x):
        code = self.encode(torch.sigmoid(self.down(x)).flatten(1))
        y = F.relu(self.decode(torch.tanh(code))).unflatten(1, (16, 4, 4))
        return torch.sigmoid(self.up(y))


class Generator(nn.Module):
    """DCGAN's generator with a pixel shuffle at its end; C is smaller than its pixels."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(10, 8 * 12 * 12)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 12, 4, 2, 1)
        self.pixels = nn.Conv2d(12, 24, 3, padding=1)
        self.out = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.norm(self.project(x).view(-1, 8, 12, 12)))
        x = F.relu(self.up(x))
        return torch.tanh(self.out(torch.sigmoid(F.pixel_shuffle(self.pixels(x), 2))))


class Mlp(nn.Module):
    """Tabular data."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(7, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(32, 24), nn.BatchNorm1d(24), nn.GELU(), nn.Linear(24, 3),
        )  # fmt: skip

    def forward(self, x):
        return self.net(x)


class Shuffle(nn.Module):
    """A channel shuffle written as a view, between grouped convolutions."""

    def __init__(self, groups=2):
        super().__init__()
        self.groups = groups
        self.stem = nn.Conv2d(3, 24, 1)
        self.a = nn.Conv2d(24, 24, 1, groups=groups)
        self.b = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.c = nn.Conv2d(24, 12, 1, groups=groups)
        self.out = nn.Conv2d(12, 4, 1)

    def forward(self, x):
        x = F.relu(self.a(F.relu(self.stem(x))))
        b, c, h, w = x.shape
        x = (
            x.view(b, self.groups, c // self.groups, h, w)
            .transpose(1, 2)
            .contiguous()
            .view(b, c, h, w)
        )
        return self.out(torch.sigmoid(self.c(self.b(x))))


class ShuffleUnit(nn.Module):
    """ShuffleNet v2: half the channels pass, the other half is transformed."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 1)
        self.a = nn.Conv2d(8, 8, 1)
        self.b = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.out = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        left, right = F.relu(self.stem(x)).chunk(2, dim=1)
        y = torch.cat([left, self.b(F.relu(self.a(right)))], 1)
        return self.out(torch.sigmoid(F.channel_shuffle(y, 2)))


class Split(nn.Module):
    """C2f: split in uneven parts, slice, narrow and select."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.merge = nn.Conv2d(28, 12, 1)
        self.out = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        one, two = self.stem(x).split([12, 8], dim=1)
        y = self.a(torch.sigmoid(two))
        y = torch.cat([one, y + two, self.b(y)], 1)
        z = torch.sigmoid(self.merge(y))
        gate = z[:, -1:] + z.select(1, 0).unsqueeze(1)
        return self.out(F.glu(z, 1) + z[:, 2:8] * gate + z.narrow(1, 6, 6))


class Conv1d(nn.Module):
    """A TCN with weight normalisation written out, and conv3d beside it."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv1d(3, 16, 3, padding=2, dilation=2)
        self.b = nn.Conv1d(16, 16, 3, padding="same")
        self.up = nn.ConvTranspose1d(16, 8, 2, 2)
        self.cube = nn.Conv3d(1, 6, 3, padding=1)
        self.cube_up = nn.ConvTranspose3d(6, 2, 2, 2)

    def forward(self, x):
        x = F.relu(self.a(x))
        x = F.instance_norm(self.up(x + F.relu(self.b(x))))
        cube = torch.sigmoid(self.cube(x.unflatten(2, (-1, 2)).unsqueeze(1)))
        return self.cube_up(F.adaptive_max_pool3d(cube, (2, 2, 2)))


class Attention(nn.Module):
    """Pre-norm transformer block, attention by the fused operator and written out."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.proj = nn.Linear(16, 16)
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 40), nn.Linear(40, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.embed(x)
        b, t, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, t, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, 16))
        q, k, v = (f(x).view(b, t, 2, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
        a = torch.softmax(q @ k.transpose(-2, -1) / 8**0.5, -1)
        x = x + (a @ v).transpose(1, 2).flatten(2)
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(x.mean(1))


class MultiHead(nn.Module):
    """PyTorch's own attention module."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = F.relu(self.embed(x))
        y, _ = self.attend(x, x, x)
        return self.head((x + y).mean(1))


class Tagger(nn.Module):
    """Embedding, LSTM and a linear head."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.inner = nn.Linear(8, 12)
        self.lstm = nn.LSTM(12, 10, batch_first=True)
        self.mid = nn.Linear(10, 14)
        self.head = nn.Linear(14, 3)

    def forward(self, tokens):
        x = torch.relu(self.inner(self.embed(tokens)))
        y, _ = self.lstm(x)
        return self.head(torch.sigmoid(self.mid(y)))


class Recurrent(nn.Module):
    """A stacked bidirectional LSTM, a GRU of one direction, and a plain cell over features."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.stacked = nn.LSTM(8, 10, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(20, 6, batch_first=True, bias=False)
        self.plain = nn.RNN(6, 6, nonlinearity="relu")
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        x, (h, c) = self.stacked(torch.tanh(self.first(x)))
        x, _ = self.gru(x + h[-1].repeat(1, 2).unsqueeze(1) * c[0].sum())
        y, last = self.plain(x.transpose(0, 1))
        return self.head(torch.cat([y[-1] + last[0], x[:, 0]], 1))


class Projected(nn.Module):
    """An LSTM whose state is projected to fewer numbers than it has units."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 8, proj_size=6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


class Cells(nn.Module):
    """Steps written out, with first states made in the graph."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(6, 8)
        self.cell = nn.LSTMCell(8, 10)
        self.other = nn.GRUCell(10, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        h = c = x.new_zeros(x.shape[0], 10)
        s = x.new_zeros(x.shape[0], 6)
        for step in range(3):
            h, c = self.cell(torch.tanh(self.encode(x[:, step])), (h, c))
            s = self.other(h, s)
        return self.head(s)


class Tied(nn.Module):
    """A tied embedding and a layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.twice = nn.Linear(16, 16)
        self.inner = nn.Linear(16, 20)
        self.outer = nn.Linear(20, 16)
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.twice(torch.sigmoid(self.twice(self.embed(tokens))))
        return self.head(self.outer(torch.sigmoid(self.inner(x))))


class Products(nn.Module):
    """matmul, addmm, bmm and einsum with parameters, expand and repeat, constants of a channel."""

    def __init__(self):
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(5, 12))
        self.b1 = nn.Parameter(torch.randn(12))
        self.w2 = nn.Parameter(torch.randn(12, 10))
        self.w3 = nn.Parameter(torch.randn(10, 3))
        self.token = nn.Parameter(torch.randn(1, 1, 10))
        self.register_buffer("scale", torch.rand(1, 12))

    def forward(self, x):
        x = torch.addmm(self.b1, x, self.w1) * self.scale * torch.ones(12)
        x = torch.sigmoid(x).matmul(self.w2).unsqueeze(1).repeat(1, 3, 1)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), torch.tanh(x).flip(2).flip(2)], 1)
        y = torch.bmm(x, x.transpose(1, 2))
        return torch.einsum("btc,co->bto", y @ x, self.w3)


class Frozen(nn.Module):
    """A running sum over channels: an operator without a rule."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 12, 1)
        self.b = nn.Conv2d(12, 16, 1)
        self.c = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        return self.c(torch.sigmoid(self.b(torch.cumsum(self.a(x), 1))))


IMAGE, ROWS, SEQUENCE = (2, 3, 8, 8), (4, 7), (2, 5, 6)


def example(shape, *, tokens=False):
    generator = torch.Generator().manual_seed(1)
    if tokens:
        return torch.randint(0, 11, shape, generator=generator)
    return torch.randn(shape, generator=generator)


NETS = {
    "residual": (Residual, IMAGE),
    "padded": (Padded, IMAGE),
    "dense": (Dense, IMAGE),
    "inception": (Inception, IMAGE),
    "mobilenet": (MobileNet, IMAGE),
    "grouped": (Grouped, IMAGE),
    "unet": (UNet, IMAGE),
    "flattened": (Flattened, IMAGE),
    "autoencoder": (Autoencoder, IMAGE),
    "generator": (Generator, (2, 10)),
    "mlp": (Mlp, ROWS),
    "shuffle": (Shuffle, IMAGE),
    "shuffle-3": (lambda: Shuffle(3), IMAGE),
    "shuffle-unit": (ShuffleUnit, IMAGE),
    "split": (Split, IMAGE),
    "conv1d": (Conv1d, (2, 3, 16)),
    "attention": (Attention, SEQUENCE),
    "multi-head": (MultiHead, SEQUENCE),
    "tagger": (Tagger, (2, 6)),
    "recurrent": (Recurrent, SEQUENCE),
    "projected": (Projected, SEQUENCE),
    "cells": (Cells, SEQUENCE),
    "tied": (Tied, (2, 6)),
    "products": (Products, (4, 5)),
    "frozen": (Frozen, IMAGE),
}


@functools.cache
def program(name):
    """The network, captured with a dynamic batch; programs are not changed by pruning."""
    net, x = build(name)
    return capture(net, (x,), dynamic=None)


def build(name, seed=0):
    """A network with random batch-norm statistics, in eval mode, and an example input."""
    torch.manual_seed(seed)
    factory, shape = NETS[name]
    net = factory().eval()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net, example(shape, tokens=name in {"tagger", "tied"})
