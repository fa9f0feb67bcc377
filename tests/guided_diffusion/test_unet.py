"""The ADM UNet against recorded outputs, known counts and direct formulas."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from guided_diffusion.nn import GroupNorm32, timestep_embedding, to_half_precision
from guided_diffusion.presets import FFHQ_256, PHOTOS_64, PRESETS, UNetConfig, create_unet
from guided_diffusion.unet import AttentionBlock, UNetModel
from tests.conftest import sine_image

TINY = replace(
    PHOTOS_64, image_size=16, channel_mult=(1, 2), attention_resolutions=(2,), num_head_channels=16
)


def fill(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Gives every parameter, zero-initialised ones too, a random value of sensible size."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.1 * noise + (parameter.data == 1).float())
    return network.eval()


def tiny_unet(**changes: object) -> UNetModel:
    """A small network with all parameters filled."""
    return fill(create_unet(replace(TINY, **changes)))


def tiny_input(batch: int = 2, height: int = 16, width: int = 16) -> tuple[torch.Tensor, ...]:
    """A random image batch and times."""
    rng = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, height, width, generator=rng), torch.tensor([3, 977])[:batch]


@pytest.fixture(scope="module")
def recorded_unet(golden_unet: dict[str, np.ndarray]) -> UNetModel:
    """The network of the recorded outputs, built with upstream's keywords."""
    config = json.loads(str(golden_unet["cfg0_config"]))
    side = config["image_size"]
    return UNetModel(
        image_size=side,
        in_channels=3,
        model_channels=config["num_channels"],
        out_channels=6,
        num_res_blocks=config["num_res_blocks"],
        attention_resolutions=tuple(
            side // int(r) for r in config["attention_resolutions"].split(",")
        ),
        dropout=config["dropout"],
        channel_mult=(1, 2, 3, 4),
        num_classes=None,
        use_checkpoint=config["use_checkpoint"],
        use_fp16=config["use_fp16"],
        num_heads=config["num_heads"],
        num_head_channels=config["num_head_channels"],
        num_heads_upsample=config["num_heads_upsample"],
        use_scale_shift_norm=config["use_scale_shift_norm"],
        resblock_updown=config["resblock_updown"],
        use_new_attention_order=config["use_new_attention_order"],
    ).eval()


def is_norm_weight(key: str, value: torch.Tensor) -> bool:
    """Whether a parameter is the scale of a group norm (the only 1-D weights)."""
    return value.ndim == 1 and key.endswith("weight")


def test_keys_and_shapes_are_upstreams(
    recorded_unet: UNetModel, golden_unet: dict[str, np.ndarray]
) -> None:
    state = recorded_unet.state_dict()
    assert list(state) == list(golden_unet["cfg0_keys"])
    assert [list(v.shape) for v in state.values()] == json.loads(str(golden_unet["cfg0_shapes"]))


def test_output_meets_recorded_random_filling(
    recorded_unet: UNetModel, golden_unet: dict[str, np.ndarray]
) -> None:
    state = {}
    for k, (key, value) in enumerate(recorded_unet.state_dict().items()):
        r = np.random.RandomState(1000 + k).standard_normal(value.numel()).reshape(value.shape)
        if is_norm_weight(key, value):
            r = 1 + 0.1 * r
        elif value.ndim >= 2:
            r = r / np.sqrt(np.prod(value.shape[1:]))
        else:
            r = 0.1 * r
        state[key] = torch.tensor(r, dtype=torch.float32)
    recorded_unet.load_state_dict(state)
    x = torch.tensor(np.random.RandomState(7).standard_normal((2, 3, 64, 64)), dtype=torch.float32)
    with torch.no_grad():
        output = recorded_unet(x, torch.tensor(golden_unet["cfg0_timesteps"]))
    np.testing.assert_allclose(output, golden_unet["cfg0_output_rs"], rtol=0, atol=1e-5)


def test_output_meets_recorded_sine_filling(
    recorded_unet: UNetModel, golden_unet: dict[str, np.ndarray]
) -> None:
    state = {}
    for k, (key, value) in enumerate(recorded_unet.state_dict().items()):
        values = 0.05 * np.sin(0.7 * np.arange(value.numel()) + k) + is_norm_weight(key, value)
        state[key] = torch.tensor(values.reshape(value.shape), dtype=torch.float32)
    recorded_unet.load_state_dict(state)
    with torch.no_grad():
        output = recorded_unet(
            sine_image(3, 64, 64, batch=2), torch.tensor(golden_unet["cfg0_timesteps"])
        )
    # Large terms cancel in this filling: the recorded values themselves move by 1.5e-5.
    np.testing.assert_allclose(output, golden_unet["cfg0_output"], rtol=0, atol=5e-3)


@pytest.mark.parametrize("preset", ["ffhq_256", "imagenet_256"])
def test_presets_have_the_keys_of_the_published_checkpoints(
    preset: str, golden_shapes: dict[str, dict[str, list[int]]]
) -> None:
    with torch.device("meta"):
        state = create_unet(PRESETS[preset]).state_dict()
    expected = golden_shapes[preset]
    assert list(state) == list(expected)
    assert {key: list(value.shape) for key, value in state.items()} == expected


@pytest.mark.parametrize(
    ("preset", "parameters"), [("ffhq_256", 93_563_910), ("imagenet_256", 552_814_086)]
)
def test_presets_have_the_published_number_of_parameters(preset: str, parameters: int) -> None:
    with torch.device("meta"):
        network = create_unet(PRESETS[preset])
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_ffhq_forward_costs_194_gmac() -> None:
    with torch.device("meta"):
        network = create_unet(FFHQ_256)
        x, t = torch.empty(1, 3, 256, 256), torch.empty(1)
    with FlopCounterMode(display=False) as counter:
        network(x, t)
    # Paper, Table 13: 194.7 G, a count of multiply-accumulates; one is two FLOPs.
    assert counter.get_total_flops() / 2 == pytest.approx(193.97e9, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_runs_under_autocast(dtype: torch.dtype) -> None:
    network, (x, t) = tiny_unet(), tiny_input()
    with torch.no_grad():
        reference = network(x, t)
        with torch.autocast("cpu", dtype=dtype):
            output = network(x, t)
    assert output.dtype == torch.float32
    error = (output - reference).norm() / reference.norm()
    assert 0 < error < {torch.bfloat16: 3e-2, torch.float16: 4e-3}[dtype]


def test_half_precision_weights_work() -> None:
    network, (x, t) = tiny_unet().bfloat16(), tiny_input()
    with torch.no_grad():
        assert network(x.bfloat16(), t).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_for_inference_is_as_good_as_autocast(dtype: torch.dtype) -> None:
    network, (x, t) = tiny_unet(), tiny_input()
    with torch.no_grad():
        reference = network(x, t)
        with torch.autocast("cpu", dtype=dtype):
            under_autocast = network(x, t)
        output = to_half_precision(network, dtype)(x, t)
    assert output.dtype == torch.float32
    error = (output - reference).norm()
    assert 0 < error < 1.5 * (under_autocast - reference).norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_group_norms_stay_float32_and_all_else_is_cast(dtype: torch.dtype) -> None:
    network = to_half_precision(tiny_unet(), dtype)
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            norm = isinstance(module, GroupNorm32)
            assert parameter.dtype == (torch.float32 if norm else dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_group_norm_of_channels_last_images_computes_in_float32(dtype: torch.dtype) -> None:
    x = 10 + torch.randn(1, 128, 64, 64, generator=torch.Generator().manual_seed(3))
    x = x.to(dtype).to(memory_format=torch.channels_last)
    norm = GroupNorm32(32, 128).requires_grad_(False)
    norm.weight.copy_(torch.linspace(0.5, 2, 128))
    expected = torch.nn.functional.group_norm(x.double(), 32, norm.weight.double())
    assert torch.equal(norm(x), norm(x.float()).to(dtype))
    tolerance = torch.finfo(dtype).eps  # of the result's rounding
    torch.testing.assert_close(norm(x).double(), expected, rtol=tolerance, atol=tolerance)


def test_channels_last_gives_the_same_output() -> None:
    network, (x, t) = tiny_unet(), tiny_input()
    with torch.no_grad():
        reference = network(x, t)
        channels_last = network.to(memory_format=torch.channels_last)
        output = channels_last(x.to(memory_format=torch.channels_last), t)
    torch.testing.assert_close(output, reference, rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_compiles_to_the_same_output_and_gradient() -> None:
    """With one block of each kind, since the compiler takes seconds for each."""
    network = tiny_unet(channel_mult=(1,), num_res_blocks=1, attention_resolutions=(1,))
    x, t = tiny_input()
    results = []
    for each in (network, torch.compile(network, fullgraph=True)):
        network.zero_grad(set_to_none=True)
        output = each(x, t)
        output.square().sum().backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
        results.append((output.detach(), gradient))
    (expected, expected_gradient), (output, gradient) = results
    torch.testing.assert_close(output, expected, rtol=0, atol=2e-5)
    assert (gradient - expected_gradient).norm() < 1e-5 * expected_gradient.norm()


def test_takes_non_square_images() -> None:
    network, (x, t) = tiny_unet(), tiny_input(height=16, width=30)
    with torch.no_grad():
        assert network(x, t).shape == (2, 3, 16, 30)


def test_refuses_sizes_that_do_not_divide() -> None:
    network, (x, t) = tiny_unet(), tiny_input(height=15)
    with pytest.raises(ValueError, match="15x16: both sides must be multiples of 2"):
        network(x, t)


@pytest.mark.parametrize("updown", [True, False])
def test_checkpointing_recomputes_every_block_and_changes_nothing(
    updown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    import guided_diffusion.unet as module

    original = module.checkpoint
    monkeypatch.setattr(
        module, "checkpoint", lambda *args, **kw: (calls.append(1), original(*args, **kw))[1]
    )
    x, t = tiny_input()
    gradients = []
    for use_checkpoint in (False, True):
        network = tiny_unet(resblock_updown=updown, use_checkpoint=use_checkpoint)
        network(x, t).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    blocks = [
        block
        for block in network.modules()
        if type(block).__name__ in ("ResBlock", "AttentionBlock")
    ]
    assert len(calls) == len(blocks)
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("new_order", [True, False])
def test_attention_equals_softmax_attention(new_order: bool) -> None:
    block = AttentionBlock(
        32,
        num_heads=1,
        num_head_channels=8,
        use_new_attention_order=new_order,
        use_checkpoint=False,
    )
    fill(block)
    x = torch.randn(2, 32, 3, 5, generator=torch.Generator().manual_seed(2))
    qkv = block.qkv(block.norm(x.flatten(2)))
    if new_order:  # (q of all heads, k of all heads, v of all heads)
        q, k, v = (part.view(2, 4, 8, 15) for part in qkv.split(32, dim=1))
    else:  # head by head its (q, k, v)
        heads = qkv.view(2, 4, 24, 15)
        q, k, v = heads[:, :, :8], heads[:, :, 8:16], heads[:, :, 16:]
    weights = torch.einsum("bhdi,bhdj->bhij", q * 8**-0.25, k * 8**-0.25).softmax(dim=-1)
    attended = torch.einsum("bhij,bhdj->bhdi", weights, v).reshape(2, 32, 15)
    expected = x + block.proj_out(attended).view_as(x)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("new_order", [True, False])
def test_attention_fits_the_fused_kernel(new_order: bool) -> None:
    """With only that one allowed, torch refuses q, k and v that are not laid out for it."""
    block = AttentionBlock(
        32,
        num_heads=1,
        num_head_channels=8,
        use_new_attention_order=new_order,
        use_checkpoint=False,
    )
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        assert block(torch.zeros(2, 32, 3, 5)).shape == (2, 32, 3, 5)


def test_attention_refuses_heads_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="48 channels cannot be split"):
        AttentionBlock(
            48,
            num_heads=1,
            num_head_channels=32,
            use_new_attention_order=False,
            use_checkpoint=False,
        )


def test_group_norm_computes_in_float32() -> None:
    norm = GroupNorm32(1, 32)
    # A small variation on a large mean, which half precision squares away.
    x = 100 + torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(3))
    expected = torch.nn.functional.group_norm(x.half().float(), 1)
    torch.testing.assert_close(norm(x.half()).float(), expected, rtol=2e-3, atol=2e-3)


def test_timestep_embedding_is_cosines_then_sines() -> None:
    embedding = timestep_embedding(torch.tensor([0, 7]), 5)
    frequency = np.exp(-np.log(10000) * np.array([0, 0.5]))
    expected = np.concatenate([np.cos(7 * frequency), np.sin(7 * frequency), [0]])
    np.testing.assert_allclose(embedding[1], expected, atol=1e-6)
    np.testing.assert_allclose(embedding[0], [1, 1, 0, 0, 0])


def test_class_conditional_model_needs_labels() -> None:
    network = UNetModel(16, 3, 32, 3, 1, (), channel_mult=(1, 1), num_classes=10)
    x, t = tiny_input()
    assert network(x, t, torch.tensor([1, 2])).shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="labels y"):
        network(x, t)


@pytest.mark.parametrize(("option", "value"), [("dims", 3), ("use_fp16", True)])
def test_unsupported_upstream_options_are_refused(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=option):
        UNetModel(16, 3, 32, 3, 1, (), **{option: value})


def test_unet_config_names_every_shared_option() -> None:
    assert UNetConfig(**vars(FFHQ_256)).downsampling == 32
