import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from aescli.errors import AesError
from aescli.models.encoders import EncoderConfig, build_encoder
from aescli.models.inception_resnet import InceptionResNetV1, facenet_state, whitened


def facenet_pytorch_names(net: InceptionResNetV1) -> dict[str, torch.Tensor]:
    """The same tensors under facenet-pytorch's names, from that package's layout."""
    first = {0: "repeat_1", 6: "repeat_2", 17: "repeat_3"}
    stem = ["conv2d_1a", "conv2d_2a", "conv2d_2b", "maxpool_3a", "conv2d_3b", "conv2d_4a", "conv2d_4b"]
    state = {}
    for name, value in net.state_dict().items():
        head, number, *rest = name.split(".")
        if head == "stem":
            state[".".join([stem[int(number)], *rest])] = value
            continue
        number = int(number)
        if number in (5, 16, 22):
            prefix = {5: "mixed_6a", 16: "mixed_7a", 22: "block8"}[number]
        else:
            start = max(s for s in first if s <= number)
            prefix = f"{first[start]}.{number - start}"
        inner = ".".join(rest).replace("up.", "conv2d.")
        if found := re.match(r"branches\.(\d)\.(\d)\.(.*)", inner):
            branch, position, tail = found.groups()
            single = len(net.blocks[number].branches[int(branch)]) == 1
            inner = f"branch{branch}.{tail}" if single else f"branch{branch}.{position}.{tail}"
        state[f"{prefix}.{inner}"] = value
    return state


def keras_layers(net: InceptionResNetV1) -> dict[tuple[str, str], torch.Tensor]:
    """{(layer, tensor): values in Keras order} under the names of the Keras conversion, whose norms have no scale."""
    stem = {0: "Conv2d_1a_3x3", 1: "Conv2d_2a_3x3", 2: "Conv2d_2b_3x3", 4: "Conv2d_3b_1x1", 5: "Conv2d_4a_3x3",
            6: "Conv2d_4b_3x3"}  # fmt: skip
    layers = {}
    for name, module in net.named_modules():
        if not isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            continue
        parts = name.split(".")
        if parts[0] == "stem":
            layer = stem[int(parts[1])]
        else:
            number = int(parts[1])
            kind, start = next(
                (k, s) for k, s in (("Block8", 17), ("Mixed_7a", 16), ("Block17", 6), ("Mixed_6a", 5), ("Block35", 0))
                if number >= s
            )  # fmt: skip
            prefix = kind if kind.startswith("Mixed") else f"{kind}_{number - start + 1}"
            if parts[2] == "up":
                layer = f"{prefix}_Conv2d_1x1"
            else:
                branch, position = int(parts[3]), int(parts[4])
                conv = net.get_submodule(".".join([*parts[:5], "conv"]))
                size = "x".join(map(str, conv.kernel_size))
                length = len(net.blocks[number].branches[branch])
                if kind.startswith("Mixed") and position == length - 1:
                    letter = "1a_"
                else:
                    letter = "" if length == 1 else f"0{'abc'[position]}_"
                layer = f"{prefix}_Branch_{branch}_Conv2d_{letter}{size}"
        if isinstance(module, nn.Conv2d):
            layers[layer, "kernel"] = module.weight.detach().permute(2, 3, 1, 0)
            if module.bias is not None:
                layers[layer, "bias"] = module.bias.detach()
        else:
            layers[layer + "_BatchNorm", "beta"] = module.bias.detach()
            layers[layer + "_BatchNorm", "moving_mean"] = module.running_mean
            layers[layer + "_BatchNorm", "moving_variance"] = module.running_var
    return layers


@pytest.fixture(scope="module")
def net() -> InceptionResNetV1:
    torch.manual_seed(0)
    net = InceptionResNetV1().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net


def test_the_network_has_facenets_size_and_shapes(net):
    # facenet-pytorch's model has 23,482,624 with its embedding: 1792 × 512 and a norm of 512.
    assert sum(p.numel() for p in net.parameters()) == 23_482_624 - 1792 * 512 - 2 * 512
    with torch.inference_mode():
        assert net(torch.randn(1, 3, 160, 160)).shape == (1, 1792, 3, 3)


def test_both_layouts_of_facenets_weights_load(net, tmp_path):
    h5py = pytest.importorskip("h5py")
    save_file(facenet_pytorch_names(net), tmp_path / "facenet.safetensors")
    with h5py.File(tmp_path / "facenet.h5", "w") as file:
        for (layer, tensor), value in keras_layers(net).items():
            file[f"model_weights/{layer}/{layer}/{tensor}:0"] = value.numpy()
    images = torch.rand(2, 3, 80, 80)
    with torch.inference_mode():
        expected = net(whitened(images))
        for name in ("facenet.safetensors", "facenet.h5"):
            config = EncoderConfig(
                "inception_resnet_v1", (17, 23), image_size=80, weights=str(tmp_path / name)
            )
            encoder = build_encoder(config).eval()
            torch.testing.assert_close(encoder(images)[-1], expected, rtol=0, atol=0)
            folded = build_encoder(
                EncoderConfig("inception_resnet_v1", (17, 23), weights=str(tmp_path / name), fold_norms=True)
            )
            torch.testing.assert_close(folded(images)[-1], expected, rtol=1e-4, atol=1e-4)


def test_a_shallow_encoder_holds_and_needs_no_deeper_blocks(net, tmp_path):
    save_file(facenet_pytorch_names(net), tmp_path / "facenet.safetensors")
    assert set(facenet_state(tmp_path / "facenet.safetensors", 3)) == set(InceptionResNetV1(3).state_dict())
    encoder = build_encoder(
        EncoderConfig("inception_resnet_v1", (3,), weights=str(tmp_path / "facenet.safetensors"))
    )
    assert len(encoder.net.blocks) == 3
    assert encoder.channels == [256]


def test_the_frozen_half_and_the_rest_make_the_whole():
    encoder = build_encoder(EncoderConfig("inception_resnet_v1", (6, 16, 18))).eval()
    images = torch.rand(2, 3, 80, 80)
    with torch.inference_mode():
        whole = encoder(images)
        encoder.set_cut(16)
        state = encoder.lower(images)
        assert [s.shape[1] for s in state] == [896, 896]
        for a, b in zip(whole, encoder.upper(state), strict=True):
            torch.testing.assert_close(a, b)


def test_whitening_ignores_brightness_and_contrast_and_bears_a_plain_picture():
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(whitened(images), whitened(images * 3 - 7), rtol=1e-4, atol=1e-4)
    values = whitened(images).numpy().reshape(2, -1)
    np.testing.assert_allclose(values.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(values.std(1), 1, rtol=1e-5)
    assert (whitened(torch.full((1, 3, 8, 8), 0.3)).abs() < 1e-4).all()


def test_files_that_are_not_facenets_are_refused_in_one_line(tmp_path):
    save_file({"other": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(AesError, match=r"other.safetensors lacks \d+ tensors"):
        build_encoder(EncoderConfig("inception_resnet_v1", (3,), weights=str(tmp_path / "other.safetensors")))
    pytest.importorskip("h5py")
    (tmp_path / "broken.h5").write_bytes(b"no hdf5")
    for name in ("broken.h5", "absent.h5"):
        with pytest.raises(AesError, match=f"encoder.weights: .*{name}"):
            build_encoder(EncoderConfig("inception_resnet_v1", (3,), weights=str(tmp_path / name)))
