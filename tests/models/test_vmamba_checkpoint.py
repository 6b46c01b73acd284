"""Official VMamba checkpoints: every variant in each layout that it was published in, and files that do not fit."""

import os
from dataclasses import replace

import pytest
import torch
import vmamba_official as official
from safetensors.torch import save_file

from aescli.errors import AesError
from aescli.models.encoders import EncoderConfig, build_encoder
from aescli.models.vmamba import VARIANTS, VMamba
from aescli.models.vmamba_checkpoint import canonical_keys, load_vmamba, matching_variant
from aescli.models.weights_file import read_state

LAYOUTS = [(name, "newer") for name in official.SIZES] + [
    (name, "v0") for name, size in official.SIZES.items() if size[4]
]
SMALL = {True: (16, (1, 2, 1, 1), 3, 2, True), False: (16, (1, 2, 1, 1), 1, 1, False)}


def small_net(gated, classes=10):
    width, depths, states, ratio, _ = SMALL[gated]
    base = VARIANTS["vmamba_tiny_v0" if gated else "vmamba_tiny_s1l8"]
    return VMamba(
        replace(base, width=width, depths=depths, states=states, ssm_ratio=ratio, classes=classes)
    ).eval()


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_every_variant_loads_whole(name, layout, tmp_path):
    """Every tensor of the file arrives, each at a place of its own."""
    shapes = official.shapes(official.SIZES[name], layout)
    state = {key: torch.full((1,), float(i)).expand(shape) for i, (key, shape) in enumerate(shapes.items())}
    torch.save({"model": state, "epoch": 3}, tmp_path / "official.pth")  # as stored: one number a tensor
    with torch.device("meta"):
        net = VMamba(replace(VARIANTS[name], classes=1000))
    net.to_empty(device="cpu")
    load_vmamba(net, tmp_path / "official.pth")
    ranges = [(float(value.min()), float(value.max())) for value in net.state_dict().values()]
    assert sorted(ranges) == [(float(i), float(i)) for i in range(len(shapes))]


@pytest.mark.parametrize(
    ("gated", "layout", "change"),
    [
        (True, "v0", None),
        (True, "newer", None),
        (True, "newer", official.as_convolutions),
        (False, "newer", None),
        (False, "newer", official.as_convolutions),
        (False, "newer", official.with_dotted_projections),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_loaded_network_computes_what_the_official_one_does(gated, layout, change, suffix, tmp_path):
    size = SMALL[gated]
    state = official.random_state(size, layout)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    wanted = official.forward(state, size, layout, images)
    path = tmp_path / f"official{suffix}"
    stored = change(state) if change else state
    if suffix == ".pth":
        torch.save({"model": stored, "optimizer": {"lr": 0.1}}, path)
    else:
        save_file({k: v.contiguous() for k, v in stored.items()}, path)
    net = small_net(gated)
    load_vmamba(net, path)
    with torch.no_grad():
        found = net(images)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_convolutions_of_joined_directions_load_too(tmp_path):
    state = official.random_state(SMALL[False], "newer")
    flat = {
        k: v.flatten(0, 1)[..., None] if k.endswith(("x_proj_weight", "dt_projs_weight")) else v
        for k, v in state.items()
    }
    torch.save({"model": flat}, tmp_path / "flat.pth")
    net = small_net(False)
    load_vmamba(net, tmp_path / "flat.pth")
    key = "layers.1.blocks.1.op.x_proj_weight"
    assert torch.equal(net.state_dict()[key], state[key])


def test_our_own_names_load(tmp_path):
    torch.manual_seed(0)
    net, other = small_net(False), small_net(False)
    save_file(net.state_dict(), tmp_path / "own.safetensors")
    load_vmamba(other, tmp_path / "own.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_a_network_without_head_or_last_stages_takes_what_it_has(tmp_path):
    state = official.random_state(official.SIZES["vmamba_tiny_s1l8"], "newer")
    torch.save({"model": state}, tmp_path / "w.pth")
    encoder = build_encoder(
        EncoderConfig(name="vmamba_tiny_s1l8", levels=(1, 2), weights=str(tmp_path / "w.pth"))
    )
    assert torch.equal(encoder.net.patch_embed[2].norm.weight, state["patch_embed.7.weight"])
    assert torch.equal(encoder.net.layers[1].blocks[1].mlp.fc2.bias, state["layers.1.blocks.1.mlp.fc2.bias"])
    assert not any("layers.2" in key or "layers.1.downsample" in key for key in encoder.state_dict())


def test_the_wrong_variant_is_named_with_key_shapes_and_the_one_that_fits(tmp_path):
    for name, other, message in (
        # other widths
        (
            "vmamba_base_s1l20",
            "vmamba_tiny_s2l5",
            r"patch_embed\.0\.conv\.weight is \(64, 3, 3, 3\) in the file and \(48, 3, 3, 3\) in the encoder; "
            r"the file fits encoder\.name: vmamba_base_s1l20",
        ),
        # deeper than the encoder, and shallower
        (
            "vmamba_small_s1l20",
            "vmamba_tiny_s1l8",
            r"layers\.2\.blocks\.8\..* absent in the .*vmamba_small_s1l20",
        ),
        (
            "vmamba_tiny_s1l8",
            "vmamba_small_s1l20",
            r"layers\.2\.blocks\.8\..* absent in the .*vmamba_tiny_s1l8",
        ),
    ):
        shapes = official.shapes(official.SIZES[name], "newer")
        torch.save({"model": {k: torch.zeros(1).expand(s) for k, s in shapes.items()}}, tmp_path / "w.pth")
        with pytest.raises(AesError, match=message) as caught:
            build_encoder(EncoderConfig(name=other, weights=str(tmp_path / "w.pth")))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["vmamba_tiny_v0", "vmamba_base_s2l15"])
def test_the_variant_of_a_file_is_recognised(name):
    shapes = official.shapes(official.SIZES[name], "newer", classes=7)
    state = {k: torch.zeros(1).expand(s) for k, s in shapes.items()}
    assert matching_variant(canonical_keys(state)) == name
    state.pop("layers.0.blocks.0.op.Ds")
    assert matching_variant(canonical_keys(state)) is None


def test_a_head_of_other_classes_says_so(tmp_path):
    torch.save(
        {"model": official.random_state(official.SIZES["vmamba_tiny_s1l8"], "newer")}, tmp_path / "w.pth"
    )
    with torch.device("meta"):
        net = VMamba(replace(VARIANTS["vmamba_tiny_s1l8"], classes=1000))
    with pytest.raises(AesError, match=r"head\.weight is \(10, 768\) .* \(1000, 768\).*other classes"):
        load_vmamba(net, tmp_path / "w.pth")


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_a_hostile_pickle_is_refused_unexecuted_in_one_line(tmp_path):
    marker = tmp_path / "executed"
    torch.save({"model": {"a": torch.zeros(1)}, "config": Attack(str(marker))}, tmp_path / "evil.pth")
    with pytest.raises(AesError, match=r"evil\.pth: refused, it refers to .*mkdir") as caught:
        build_encoder(EncoderConfig(name="vmamba_tiny_s1l8", weights=str(tmp_path / "evil.pth")))
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_files_that_are_no_checkpoints_say_so(tmp_path):
    (tmp_path / "text.pth").write_text("not a checkpoint")
    (tmp_path / "text.safetensors").write_text("not a checkpoint")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"model": {}}, tmp_path / "empty.pth")
    torch.save({"a": torch.zeros(2), "b": torch.tensor([0.0, torch.nan])}, tmp_path / "nan.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "nan.pth").read_bytes()[:300])
    for name, message in (
        ("absent.pth", "no such file"),
        ("", "is a folder"),
        ("nan.pth", "'b' holds values that are not finite"),
        ("cut.pth", "damaged, or not a file of torch.save"),
        ("text.pth", r"text\.pth: (refused|damaged)"),
        ("text.safetensors", "not a safetensors file"),
        ("list.pth", "holds no tensors by name"),
        ("empty.pth", "holds no tensors by name"),
    ):
        with pytest.raises(AesError, match=message) as caught:
            read_state(tmp_path / name)
        assert "\n" not in str(caught.value)
