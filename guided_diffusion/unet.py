"""The ADM UNet, with the keyword names and the state-dict keys of OpenAI's guided-diffusion.

Parameter names and shapes are a contract with existing checkpoints: a module below may be
rewritten, but not renamed or moved within its `nn.Sequential`.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from guided_diffusion.nn import normalization, timestep_embedding, zero_module

Build = Callable[..., nn.Module]  # a block of given widths


class TimestepBlock(nn.Module):
    """A block whose forward takes the time embedding as a second argument."""


class TimestepEmbedSequential(nn.Sequential, TimestepBlock):
    """A sequence that hands the time embedding to those of its children that take it."""

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        """Returns x (B, C, H, W) after all children; emb is (B, D), or None once it is folded."""
        for layer in self:
            x = layer(x, emb) if isinstance(layer, TimestepBlock) else layer(x)
        return x


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by two, with a 3x3 convolution unless `use_conv` is false."""

    def __init__(self, channels: int, use_conv: bool) -> None:
        super().__init__()
        if use_conv:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, C, 2H, 2W)."""
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv(x) if hasattr(self, "conv") else x


class Downsample(nn.Module):
    """Downsampling by two: a strided 3x3 convolution, or 2x2 averaging if `use_conv` is false."""

    def __init__(self, channels: int, use_conv: bool) -> None:
        super().__init__()
        if use_conv:
            self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        else:
            self.op = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, C, H/2, W/2)."""
        return self.op(x)


class ResBlock(TimestepBlock):
    """Residual block conditioned on the time embedding; `up` or `down` resamples by two."""

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        emb_channels: int,
        dropout: float,
        use_scale_shift_norm: bool,
        use_checkpoint: bool,
        up: bool = False,
        down: bool = False,
    ) -> None:
        super().__init__()
        out_channels = out_channels or channels
        self.use_scale_shift_norm = use_scale_shift_norm
        self.use_checkpoint = use_checkpoint
        self.in_layers = nn.Sequential(
            normalization(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.resample: nn.Module = nn.Identity()
        if up:
            self.resample = Upsample(channels, use_conv=False)
        elif down:
            self.resample = Downsample(channels, use_conv=False)
        emb_out = 2 * out_channels if use_scale_shift_norm else out_channels
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, emb_out))
        self.out_layers = nn.Sequential(
            normalization(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zero_module(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection: nn.Module = nn.Identity()
        if out_channels != channels:
            self.skip_connection = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        """Returns (B, C', H', W') for x (B, C, H, W) and emb (B, D), None once it is folded."""
        return _run(self._forward, (x, emb), self.use_checkpoint)

    def _forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        norm, activation, conv = self.in_layers
        h = conv(self.resample(activation(norm(x))))
        norm, activation, dropout, conv = self.out_layers
        if emb is None:
            h = norm(h)
        else:
            emb_out = self.emb_layers(emb).to(h.dtype)[:, :, None, None]
            if self.use_scale_shift_norm:
                scale, shift = emb_out.chunk(2, dim=1)
                h = norm(h) * (1 + scale) + shift
            else:
                h = norm(h + emb_out)
        return self.skip_connection(self.resample(x)) + conv(dropout(activation(h)))


class AttentionBlock(nn.Module):
    """Self-attention over all positions of a feature map, as a residual branch.

    Args:
        channels: C, a multiple of the number of heads.
        num_heads: number of heads if `num_head_channels` is -1.
        num_head_channels: channels of each head, or -1.
        use_new_attention_order: how the 3C channels of `qkv` are laid out: (q, k, v) each with all
            heads if true, else heads each with its (q, k, v).
        use_checkpoint: recompute the block in the backward pass.

    Raises:
        ValueError: channels is no multiple of the head size.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        num_head_channels: int,
        use_new_attention_order: bool,
        use_checkpoint: bool,
    ) -> None:
        super().__init__()
        if num_head_channels != -1:
            num_heads = channels // num_head_channels
        fits = num_heads > 0 and channels % num_heads == 0
        if not fits or num_head_channels not in (-1, channels // num_heads):
            raise ValueError(
                f"attention over {channels} channels cannot be split into heads of "
                f"num_head_channels={num_head_channels}, num_heads={num_heads}"
            )
        self.num_heads = num_heads
        self.use_new_attention_order = use_new_attention_order
        self.use_checkpoint = use_checkpoint
        self.norm = normalization(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero_module(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, C, H, W), shape as x."""
        return _run(self._forward, (x,), self.use_checkpoint)

    def _forward(self, x: Tensor) -> Tensor:
        batch, channels, *spatial = x.shape
        flat = x.reshape(batch, channels, -1)
        qkv = self.qkv(self.norm(flat))
        head_channels = channels // self.num_heads
        if self.use_new_attention_order:
            qkv = qkv.view(batch, 3, self.num_heads, head_channels, -1).transpose(1, 2)
        else:
            qkv = qkv.view(batch, self.num_heads, 3, head_channels, -1)
        # (B, heads, 3, positions, d), and a copy: torch has a fused kernel only for d in one piece.
        query, key, value = qkv.transpose(3, 4).contiguous().unbind(dim=2)
        attended = F.scaled_dot_product_attention(query, key, value)
        out = self.proj_out(attended.transpose(2, 3).reshape(batch, channels, -1))
        return (flat + out).reshape(batch, channels, *spatial)


@dataclass(frozen=True)
class _Plan:
    """Widths of the levels, from the image down, and where attention goes."""

    widths: list[int]
    num_res_blocks: int
    attention_resolutions: Collection[int]
    res_block: Build

    def layers(self, level: int, channels: int, attention: Build) -> list[nn.Module]:
        """A residual block to the width of the level, and attention if it goes there."""
        width = self.widths[level]
        layers = [self.res_block(channels, width)]
        if 2**level in self.attention_resolutions:
            layers.append(attention(width))
        return layers


def _input_blocks(
    plan: _Plan, first_conv: nn.Module, attention: Build, down: Build
) -> tuple[nn.ModuleList, list[int]]:
    """The way down, and the width of every skip connection it leaves behind."""
    channels = plan.widths[0]
    blocks = [TimestepEmbedSequential(first_conv)]
    skip_widths = [channels]
    for level, width in enumerate(plan.widths):
        for _ in range(plan.num_res_blocks):
            blocks.append(TimestepEmbedSequential(*plan.layers(level, channels, attention)))
            channels = width
            skip_widths.append(channels)
        if level < len(plan.widths) - 1:
            blocks.append(TimestepEmbedSequential(down(channels)))
            skip_widths.append(channels)
    return nn.ModuleList(blocks), skip_widths


def _output_blocks(
    plan: _Plan, skip_widths: list[int], attention: Build, up: Build
) -> nn.ModuleList:
    """The way up; consumes the skip connections from the last to the first."""
    channels = plan.widths[-1]
    blocks = []
    for level, width in reversed(list(enumerate(plan.widths))):
        for block in range(plan.num_res_blocks + 1):
            layers = plan.layers(level, channels + skip_widths.pop(), attention)
            channels = width
            if level > 0 and block == plan.num_res_blocks:
                layers.append(up(channels))
            blocks.append(TimestepEmbedSequential(*layers))
    return nn.ModuleList(blocks)


def _run(function: Callable[..., Tensor], inputs: tuple, use_checkpoint: bool) -> Tensor:
    if use_checkpoint and torch.is_grad_enabled():
        return checkpoint(function, *inputs, use_reentrant=False)
    return function(*inputs)


class UNetModel(nn.Module):
    """The ADM UNet: attention, time embedding and resampling residual blocks.

    Source: Dhariwal and Nichol 2021. Keyword names are those of OpenAI's package.

    Args:
        image_size: nominal side length; kept for callers, the network is convolutional.
        in_channels: channels of the input.
        model_channels: base width.
        out_channels: channels of the output; 2 * in_channels for a prior with learned variance.
        num_res_blocks: residual blocks per level.
        attention_resolutions: downsampling factors (1, 2, 4, ...) at which attention is used.
        dropout: dropout probability inside residual blocks.
        channel_mult: width of each level as a multiple of `model_channels`.
        conv_resample: let a plain Upsample or Downsample learn a convolution.
        dims: spatial dimensions; 2 is the only choice.
        num_classes: number of classes of a class-conditional model, or None.
        use_checkpoint: recompute every block in the backward pass, to save memory.
        use_fp16: kept for callers; must be False (use autocast or `.half()`).
        num_heads: attention heads if `num_head_channels` is -1.
        num_head_channels: channels per head, or -1.
        num_heads_upsample: heads on the way up, or -1 for `num_heads`.
        use_scale_shift_norm: the time embedding scales and shifts instead of being added.
        resblock_updown: resample inside residual blocks.
        use_new_attention_order: see `AttentionBlock`.

    Raises:
        ValueError: dims is not 2, or use_fp16 is set.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: Collection[int],
        dropout: float = 0.0,
        channel_mult: Sequence[float] = (1, 2, 4, 8),
        conv_resample: bool = True,
        dims: int = 2,
        num_classes: int | None = None,
        use_checkpoint: bool = False,
        use_fp16: bool = False,
        num_heads: int = 1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
    ) -> None:
        super().__init__()
        if dims != 2:
            raise ValueError(f"dims={dims}: only 2-D images are supported")
        if use_fp16:
            raise ValueError("use_fp16=True: run under torch.autocast, or call .half() instead")
        self.image_size = image_size
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.model_channels = model_channels
        self.num_classes = num_classes
        self.downsampling = 2 ** (len(channel_mult) - 1)

        emb_channels = 4 * model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb_channels),
            nn.SiLU(),
            nn.Linear(emb_channels, emb_channels),
        )
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, emb_channels)

        res_block = partial(
            ResBlock,
            emb_channels=emb_channels,
            dropout=dropout,
            use_scale_shift_norm=use_scale_shift_norm,
            use_checkpoint=use_checkpoint,
        )
        attention = partial(
            AttentionBlock,
            num_heads=num_heads,
            num_head_channels=num_head_channels,
            use_new_attention_order=use_new_attention_order,
            use_checkpoint=use_checkpoint,
        )
        if num_heads_upsample == -1:
            num_heads_upsample = num_heads
        widths = [int(multiple * model_channels) for multiple in channel_mult]
        plan = _Plan(widths, num_res_blocks, attention_resolutions, res_block)
        down, up = partial(res_block, down=True), partial(res_block, up=True)
        if not resblock_updown:
            down, up = (partial(kind, use_conv=conv_resample) for kind in (Downsample, Upsample))

        first_conv = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.input_blocks, skip_widths = _input_blocks(plan, first_conv, attention, down)
        deepest = widths[-1]
        self.middle_block = TimestepEmbedSequential(
            res_block(deepest, deepest), attention(deepest), res_block(deepest, deepest)
        )
        attention_up = partial(attention, num_heads=num_heads_upsample)
        self.output_blocks = _output_blocks(plan, skip_widths, attention_up, up)
        self.out = nn.Sequential(
            normalization(widths[0]),
            nn.SiLU(),
            zero_module(nn.Conv2d(widths[0], out_channels, 3, padding=1)),
        )

    @property
    def blocks(self) -> list[nn.Module]:
        """The parts that hold almost all weights, in the order in which they are used."""
        return [*self.input_blocks, self.middle_block, *self.output_blocks]

    @property
    def last_convolution(self) -> nn.Module:
        """The last one before the output layers."""
        return self.output_blocks[-1][0].out_layers[-1]

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """Returns the network output.

        Args:
            x: (B, in_channels, H, W); H and W are multiples of `self.downsampling`.
            timesteps: (B,) raw time index.
            y: (B,) class labels; given exactly if the model is class-conditional.

        Returns:
            (B, out_channels, H, W), dtype as x.

        Raises:
            ValueError: a size that does not fit, or labels missing or superfluous.
        """
        if x.shape[-2] % self.downsampling or x.shape[-1] % self.downsampling:
            raise ValueError(
                f"image of {x.shape[-2]}x{x.shape[-1]}: both sides must be multiples of "
                f"{self.downsampling} for this network"
            )
        if (y is None) != (self.num_classes is None):
            raise ValueError("labels y must be given exactly if the model is class-conditional")
        dtype = self.out[2].weight.dtype
        emb = self._embedding(timesteps, y, dtype)
        h = x.to(dtype)
        skips = []
        for module in self.input_blocks:
            h = module(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for module in self.output_blocks:
            h = module(torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h).to(x.dtype)

    def _embedding(self, timesteps: Tensor, y: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """Of time and class, (B, D); None if the time is folded, see `folding.py`."""
        if self.time_embed is None:
            return None
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(dtype))
        return emb if y is None else emb + self.label_emb(y)
