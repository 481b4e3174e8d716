"""Small versions of architectures that people use, written as their sources are written.

Sizes stand in the source (`view(b, t, 4, 8)`), attention is fused in some and written out in
others, and positions come from tables, relative tables and rotations.
"""

import functools
import math

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everyone calls it

from edgekit.graph.capture import capture

VOCABULARY = 13


class _ConvNorm(nn.Sequential):
    def __init__(self, i, o, kernel=1, stride=1):
        super().__init__(
            nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(o), nn.SiLU()
        )


class _Bottleneck(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.cv1, self.cv2 = _ConvNorm(width, width, 3), _ConvNorm(width, width, 3)

    def forward(self, x):
        return x + self.cv2(self.cv1(x))


class _C2f(nn.Module):
    """YOLOv8's block: both halves of a split, and every bottleneck's output, end to end."""

    def __init__(self, i, o, repeats):
        super().__init__()
        self.width = o // 2
        self.cv1 = _ConvNorm(i, 2 * self.width)
        self.cv2 = _ConvNorm((2 + repeats) * self.width, o)
        self.m = nn.ModuleList(_Bottleneck(self.width) for _ in range(repeats))

    def forward(self, x):
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class Yolo(nn.Module):
    """C2f blocks, spatial pyramid pooling, a path back up, and two decoupled heads."""

    def __init__(self):
        super().__init__()
        self.stem = _ConvNorm(3, 8, 3, 2)
        self.small = _C2f(8, 16, 2)
        self.down = _ConvNorm(16, 24, 3, 2)
        self.large = _C2f(24, 24, 1)
        self.pool_in, self.pool_out = _ConvNorm(24, 12), _ConvNorm(48, 24)
        self.merge = _C2f(40, 16, 1)
        self.boxes = nn.ModuleList(
            nn.Sequential(_ConvNorm(c, 8, 3), nn.Conv2d(8, 16, 1)) for c in (16, 24)
        )
        self.classes = nn.ModuleList(
            nn.Sequential(_ConvNorm(c, 8, 3), nn.Conv2d(8, 3, 1)) for c in (16, 24)
        )

    def forward(self, x):
        small = self.small(self.stem(x))
        large = self.large(self.down(small))
        pools = [self.pool_in(large)]
        for _ in range(3):
            pools.append(F.max_pool2d(pools[-1], 5, 1, 2))
        large = self.pool_out(torch.cat(pools, 1))
        small = self.merge(torch.cat([F.interpolate(large, scale_factor=2.0), small], 1))
        found = [
            torch.cat([box(level), kind(level)], 1).flatten(2)
            for box, kind, level in zip(self.boxes, self.classes, (small, large), strict=True)
        ]
        boxes, kinds = torch.cat(found, 2).split((16, 3), 1)
        # Distribution focal loss: each side of a box is the mean of a distribution over 4 bins.
        bins = boxes.view(boxes.shape[0], 4, 4, -1).softmax(2)
        sides = (bins * torch.arange(4.0).view(1, 1, 4, 1)).sum(2)
        return torch.cat([sides, kinds.sigmoid()], 1)


class Detr(nn.Module):
    """A convolutional backbone, an encoder, and a decoder with learned queries."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(_ConvNorm(3, 12, 3, 2), _ConvNorm(12, 16, 3, 2))
        self.project = nn.Conv2d(16, 24, 1)
        self.row, self.column = (nn.Parameter(torch.rand(4, 12)) for _ in range(2))
        self.query = nn.Embedding(5, 24)
        self.encoder = nn.TransformerEncoderLayer(24, 3, 40, 0.1, batch_first=True)
        self.decoder = nn.TransformerDecoderLayer(24, 3, 40, 0.1, batch_first=True)
        self.kind = nn.Linear(24, 4)
        self.box = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x):
        x = self.project(self.backbone(x))
        b, _, h, w = x.shape
        place = torch.cat(
            [
                self.column[:w].unsqueeze(0).repeat(h, 1, 1),
                self.row[:h].unsqueeze(1).repeat(1, w, 1),
            ],
            -1,
        ).flatten(0, 1)
        memory = self.encoder(x.flatten(2).permute(0, 2, 1) + place)
        y = self.decoder(self.query.weight.unsqueeze(0).expand(b, -1, -1), memory)
        return self.kind(y), self.box(y).sigmoid()


class _ConformerBlock(nn.Module):
    """Half feed-forward, attention, gated convolution, half feed-forward."""

    def __init__(self, width, heads):
        super().__init__()
        self.first, self.last = (
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 32), nn.SiLU(),
                          nn.Dropout(0.1), nn.Linear(32, width))
            for _ in range(2)
        )  # fmt: skip
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.gate = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, 5, padding=2, groups=width)
        self.batch = nn.BatchNorm1d(width)
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, x):
        x = x + 0.5 * self.first(x)
        y = self.norm1(x)
        x = x + self.attend(y, y, y, need_weights=False)[0]
        y = F.glu(self.gate(self.norm2(x).transpose(1, 2)), 1)
        y = self.out(F.silu(self.batch(self.depthwise(y))))
        x = x + y.transpose(1, 2)
        return self.norm3(x + 0.5 * self.last(x))


class Conformer(nn.Module):
    """Speech: strided convolutions over time and frequency, then a conformer block."""

    def __init__(self):
        super().__init__()
        self.sub = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()
        )
        self.inward = nn.Linear(8 * 4, 16)
        self.block = _ConformerBlock(16, 2)
        self.head = nn.Linear(16, VOCABULARY)

    def forward(self, x):
        x = self.sub(x.unsqueeze(1))
        b, c, t, f = x.shape
        x = self.inward(x.permute(0, 2, 1, 3).contiguous().view(b, t, c * f))
        return F.log_softmax(self.head(self.block(x)), -1)


class _Temporal(nn.Module):
    """A dilated causal block: padded on both sides, the future is cut off."""

    def __init__(self, i, o, dilation):
        super().__init__()
        self.cut = 2 * dilation
        settings = {"padding": self.cut, "dilation": dilation}
        self.conv1 = nn.utils.parametrizations.weight_norm(nn.Conv1d(i, o, 3, **settings))
        self.conv2 = nn.Conv1d(o, o, 3, **settings)
        self.down = nn.Conv1d(i, o, 1) if i != o else None

    def forward(self, x):
        y = torch.relu(self.conv1(x)[:, :, : -self.cut].contiguous())
        y = torch.relu(self.conv2(y)[:, :, : -self.cut].contiguous())
        return torch.relu(y + (x if self.down is None else self.down(x)))


class Tcn(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(_Temporal(4, 12, 1), _Temporal(12, 12, 2), _Temporal(12, 16, 4))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.blocks(x)[:, :, -1])


class _BertLayer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.dense = nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 40), nn.Linear(40, width)

    def _heads(self, x):
        return x.view(x.size(0), x.size(1), self.heads, self.size).permute(0, 2, 1, 3)

    def forward(self, x, mask):
        q, k, v = (self._heads(f(x)) for f in (self.query, self.key, self.value))
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.size) + mask
        y = (F.dropout(scores.softmax(-1), 0.1, self.training) @ v).permute(0, 2, 1, 3)
        y = y.contiguous().view(x.size(0), x.size(1), self.heads * self.size)
        x = self.norm1(x + self.dense(y))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Bert(nn.Module):
    """Three embeddings, attention written out with a mask, a pooler, a tied decoder."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 24, padding_idx=0)
        self.positions, self.types = nn.Embedding(8, 24), nn.Embedding(2, 24)
        self.norm = nn.LayerNorm(24)
        self.layers = nn.ModuleList(_BertLayer(24, 3) for _ in range(2))
        self.pooler, self.classifier = nn.Linear(24, 24), nn.Linear(24, 3)
        self.transform, self.transform_norm = nn.Linear(24, 24), nn.LayerNorm(24)
        self.decoder = nn.Linear(24, VOCABULARY)
        self.decoder.weight = self.words.weight
        self.register_buffer("position_ids", torch.arange(8).unsqueeze(0))

    def forward(self, tokens):
        kept = (tokens != 0).float()
        mask = (1.0 - kept[:, None, None, :]) * -1e4
        x = self.words(tokens) + self.positions(self.position_ids[:, : tokens.shape[1]])
        x = self.norm(x + self.types(torch.zeros_like(tokens)))
        for layer in self.layers:
            x = layer(x, mask)
        words = self.decoder(self.transform_norm(F.gelu(self.transform(x))))
        return self.classifier(torch.tanh(self.pooler(x[:, 0]))), words


class _Conv1D(nn.Module):
    """GPT-2's layer: a linear layer whose weight is stored the other way round."""

    def __init__(self, i, o):
        super().__init__()
        self.width = o
        self.weight = nn.Parameter(torch.randn(i, o) * 0.2)
        self.bias = nn.Parameter(torch.zeros(o))

    def forward(self, x):
        y = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return y.view((*x.size()[:-1], self.width))


class _Gpt2Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.width = heads, width
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = _Conv1D(width, 3 * width), _Conv1D(width, width)
        self.up, self.down = _Conv1D(width, 4 * width), _Conv1D(4 * width, width)
        self.register_buffer("bias", torch.tril(torch.ones(8, 8, dtype=torch.bool))[None, None])

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (
            part.view(b, t, self.heads, self.width // self.heads).transpose(1, 2)
            for part in self.c_attn(self.ln_1(x)).split(self.width, dim=2)
        )
        scores = q @ k.transpose(-1, -2) * (self.width // self.heads) ** -0.5
        scores = torch.where(self.bias[:, :, :t, :t], scores, torch.finfo(scores.dtype).min)
        y = (scores.softmax(-1) @ v).transpose(1, 2).contiguous().view(b, t, self.width)
        x = x + self.c_proj(y)
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    """Fused qkv, causal mask from a buffer, tied head."""

    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, 24), nn.Embedding(8, 24)
        self.blocks = nn.ModuleList(_Gpt2Block(24, 3) for _ in range(2))
        self.ln_f = nn.LayerNorm(24)
        self.head = nn.Linear(24, VOCABULARY, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


class _VitBlock(nn.Module):
    """Fused qkv as timm writes it, scaled residual branches."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.scale1, self.scale2 = (nn.Parameter(torch.rand(width)) for _ in range(2))
        self.up, self.down = nn.Linear(width, 40), nn.Linear(40, width)

    def forward(self, x):
        b, n, c = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        x = x + self.scale1 * self.proj(y)
        return x + self.scale2 * self.down(F.gelu(self.up(self.norm2(x))))


class Vit(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 24))
        self.place = nn.Parameter(torch.randn(1, 17, 24))
        self.blocks = nn.ModuleList(_VitBlock(24, 3) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def _windows(x, size):
    """(b, h, w, c) to (b·windows, size², c)."""
    b, h, w, c = x.shape
    x = x.view(b, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size * size, c)


class _SwinBlock(nn.Module):
    """Attention in windows, shifted by a roll, with a table of relative positions."""

    def __init__(self, width, heads, side, shift, window=2):
        super().__init__()
        self.heads, self.window, self.shift, self.side = heads, window, shift, side
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))
        place = torch.stack(torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij")).flatten(1)
        apart = (place[:, :, None] - place[:, None]).permute(1, 2, 0) + window - 1
        self.register_buffer("index", apart[..., 0] * (2 * window - 1) + apart[..., 1])
        self.register_buffer("mask", self._mask() if shift else None)

    def _mask(self):
        area = torch.zeros(1, self.side, self.side, 1)
        edges = (slice(0, -self.window), slice(-self.window, -self.shift), slice(-self.shift, None))
        for number, (rows, columns) in enumerate((r, c) for r in edges for c in edges):
            area[:, rows, columns] = number
        parts = _windows(area, self.window).squeeze(-1)
        return (parts.unsqueeze(1) != parts.unsqueeze(2)).float() * -100.0

    def _attend(self, x):
        n, t, c = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        scores = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)
        bias = self.table[self.index.view(-1)].view(t, t, -1).permute(2, 0, 1)
        scores = scores + bias.contiguous().unsqueeze(0)
        if self.mask is not None:
            count = self.mask.shape[0]
            scores = scores.view(n // count, count, self.heads, t, t)
            scores = (scores + self.mask.unsqueeze(1).unsqueeze(0)).view(-1, self.heads, t, t)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, c))

    def forward(self, x):
        b, h, w, c = x.shape
        y, size = self.norm1(x), self.window
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = self._attend(_windows(y, size)).view(b, h // size, w // size, size, size, c)
        y = y.permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, c)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x))


class Swin(nn.Module):
    """Two windowed blocks, a patch merging, two more."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 2, 2)
        self.first = nn.Sequential(_SwinBlock(16, 2, 8, 0), _SwinBlock(16, 2, 8, 1))
        self.merge_norm, self.merge = nn.LayerNorm(64), nn.Linear(64, 24, bias=False)
        self.second = nn.Sequential(_SwinBlock(24, 3, 4, 0), _SwinBlock(24, 3, 4, 1))
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 5)

    def forward(self, x):
        x = self.first(self.patch(x).permute(0, 2, 3, 1))
        parts = [x[:, i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        x = self.second(self.merge(self.merge_norm(torch.cat(parts, -1))))
        return self.head(self.norm(x).mean((1, 2)))


class GruModel(nn.Module):
    """Sequence to label: two GRU layers in both directions, attention pooling over time."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.gru = nn.GRU(6, 10, num_layers=2, bidirectional=True, batch_first=True, dropout=0.1)
        self.score = nn.Linear(20, 1)
        self.hidden, self.head = nn.Linear(20, 12), nn.Linear(12, 4)

    def forward(self, x):
        y, _ = self.gru(self.norm(x))
        weight = self.score(torch.tanh(y)).softmax(1)
        return self.head(F.relu(self.hidden((weight * y).sum(1))))


class _RmsNorm(nn.Module):
    """As Llama writes it out."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * y.to(x.dtype)


def _rotated(x, cos, sin):
    """Rotary embedding: the halves of a head are real and imaginary parts."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * cos + turned * sin


class _LlamaLayer(nn.Module):
    def __init__(self, width, heads, key_heads, size):
        super().__init__()
        self.heads, self.key_heads, self.size = heads, key_heads, size
        self.norm1, self.norm2 = _RmsNorm(width), _RmsNorm(width)
        self.q_proj = nn.Linear(width, heads * size, bias=False)
        self.k_proj, self.v_proj = (
            nn.Linear(width, key_heads * size, bias=False) for _ in range(2)
        )
        self.o_proj = nn.Linear(heads * size, width, bias=False)
        self.gate, self.up = (nn.Linear(width, 40, bias=False) for _ in range(2))
        self.down = nn.Linear(40, width, bias=False)

    def _repeat(self, x):
        b, heads, t, size = x.shape
        times = self.heads // self.key_heads
        x = x[:, :, None].expand(b, heads, times, t, size)
        return x.reshape(b, heads * times, t, size)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        y = self.norm1(x)
        q = self.q_proj(y).view(b, t, self.heads, self.size).transpose(1, 2)
        k = self.k_proj(y).view(b, t, self.key_heads, self.size).transpose(1, 2)
        v = self.v_proj(y).view(b, t, self.key_heads, self.size).transpose(1, 2)
        q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
        y = F.scaled_dot_product_attention(q, self._repeat(k), self._repeat(v), is_causal=True)
        x = x + self.o_proj(y.transpose(1, 2).contiguous().view(b, t, -1))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    """Rotary positions, grouped-query heads, gated feed-forward, RMS norm written out."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 24)
        self.layers = nn.ModuleList(_LlamaLayer(24, 4, 2, 8) for _ in range(2))
        self.norm, self.head = _RmsNorm(24), nn.Linear(24, VOCABULARY, bias=False)
        self.register_buffer("rates", 1e4 ** (-torch.arange(0, 8, 2).float() / 8))

    def forward(self, tokens):
        angles = torch.arange(tokens.shape[1]).float()[:, None] * self.rates
        angles = torch.cat((angles, angles), -1)
        x, cos, sin = self.embed(tokens), angles.cos(), angles.sin()
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.head(self.norm(x))


IMAGE, TOKENS = (2, 3, 16, 16), (2, 6)
ARCHITECTURES = {
    "yolo": (Yolo, IMAGE),
    "detr": (Detr, IMAGE),
    "conformer": (Conformer, (2, 16, 16)),
    "tcn": (Tcn, (2, 4, 20)),
    "bert": (Bert, TOKENS),
    "gpt2": (Gpt2, TOKENS),
    "vit": (Vit, IMAGE),
    "swin": (Swin, IMAGE),
    "gru": (GruModel, (2, 7, 6)),
    "llama": (Llama, TOKENS),
}
OF_TOKENS = frozenset({"bert", "gpt2", "llama"})


def example(name, batch=2, seed=1):
    """Random inputs of a network."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, *ARCHITECTURES[name][1][1:])
    if name in OF_TOKENS:
        return torch.randint(0, VOCABULARY, shape, generator=generator)
    return torch.randn(shape, generator=generator)


@functools.cache
def program(name):
    """The network, captured with a dynamic batch."""
    torch.manual_seed(0)
    net = ARCHITECTURES[name][0]().eval()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return capture(net, (example(name),), dynamic=None)
