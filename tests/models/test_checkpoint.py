"""Checkpoints: what is written is what is read, and what is damaged says so."""

import json
from dataclasses import asdict

import pytest
import torch

from aescli.errors import AesError
from aescli.models.checkpoint import (
    Card,
    build_model,
    half_precision,
    load_checkpoint,
    resolve,
    save_checkpoint,
)
from aescli.models.encoders import EncoderConfig
from aescli.models.momamba import MoMambaConfig
from aescli.models.same import SAMEConfig

CONFIG = {
    "architecture": "momamba",
    "model": asdict(
        MoMambaConfig(
            encoder=EncoderConfig(name="mobilenetv1", levels=(8, 13), image_size=64),
            width=8,
            same=SAMEConfig(states=3, experts=2, rank_min=2, rank_step=1, task_rank=2, heads=2),
        )
    ),
    "preprocessing": {"size": 64, "eye_y": 0.4},
}


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = build_model(CONFIG).eval()
    folder = tmp_path / "m"
    hashes = {"0" * 16, "f" * 16}
    save_checkpoint(folder, model.state_dict(), CONFIG, Card("m", data="made up"), {"PC": 0.5}, hashes)
    return model, folder


def test_a_round_trip_gives_the_same_scores(saved):
    model, folder = saved
    loaded = load_checkpoint(folder)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(loaded.model(x).score, model(x).score)
    assert loaded.preprocessing.eye_y == 0.4
    assert loaded.card.data == "made up"
    assert loaded.training_hashes == {"0" * 16, "f" * 16}
    assert json.loads((folder / "metrics.json").read_text()) == {"PC": 0.5}


def test_half_precision_is_read_back_as_float32(saved, tmp_path):
    model, _ = saved
    state = model.state_dict()
    half = half_precision(state, smallest=100)
    kept = [k for k, v in state.items() if v.dim() == 1 or v.numel() < 100]
    assert kept
    assert all(half[k].dtype == state[k].dtype for k in kept)
    assert any(v.dtype == torch.float16 for v in half.values())
    huge = {"w": torch.full((200, 200), 1e5)}
    assert half_precision(huge)["w"].dtype == torch.float32  # beyond fp16's range
    save_checkpoint(tmp_path / "h", half, CONFIG, Card("h"))
    loaded = load_checkpoint(tmp_path / "h")
    assert next(loaded.model.parameters()).dtype == torch.float32
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(loaded.model(x).score, model(x).score, atol=4e-3, rtol=0)


def test_digest_changes_with_the_weights(saved, tmp_path):
    model, folder = saved
    state = model.state_dict()
    save_checkpoint(tmp_path / "same", state, CONFIG, Card("other name"))
    state["heads.regression.linear.bias"] = state["heads.regression.linear.bias"] + 1
    save_checkpoint(tmp_path / "different", state, CONFIG, Card("m"))
    digests = [load_checkpoint(p).digest for p in (folder, tmp_path / "same", tmp_path / "different")]
    assert digests[0] == digests[1] != digests[2]


def test_saving_replaces_a_checkpoint_whole(saved):
    model, folder = saved
    (folder / "stray.txt").write_text("x")
    save_checkpoint(folder, model.state_dict(), CONFIG, Card("new"))
    assert load_checkpoint(folder).card.name == "new"
    assert not (folder / "stray.txt").exists()
    assert [p.name for p in folder.parent.iterdir()] == ["m"]


def test_others_may_read_it(saved):
    _, folder = saved
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o644}


def test_a_failed_save_leaves_the_old_one(saved):
    model, folder = saved
    with pytest.raises(TypeError):
        save_checkpoint(folder, model.state_dict(), CONFIG, None)
    assert load_checkpoint(folder).card.name == "m"
    assert [p.name for p in folder.parent.iterdir()] == ["m"]


def test_a_run_folder_stands_for_its_checkpoint(saved, tmp_path):
    _, folder = saved
    folder.rename(tmp_path / "checkpoint")
    assert resolve(tmp_path) == tmp_path / "checkpoint"


def test_absent_and_wrong_folders_name_what_is_bundled(tmp_path):
    with pytest.raises(AesError, match="no such checkpoint folder or bundled model"):
        load_checkpoint(tmp_path / "nothing")
    with pytest.raises(AesError, match="not a checkpoint folder"):
        load_checkpoint(tmp_path)
    (tmp_path / "vmamba.pth").write_bytes(b"x")
    with pytest.raises(AesError, match=r"does not say of which model; .*aes train --init .*vmamba\.pth"):
        load_checkpoint(tmp_path / "vmamba.pth")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", b"\x80\x04not safe", "cannot read the checkpoint"),
        ("model.safetensors", b"", "cannot read the checkpoint"),
        ("config.json", b"{", "cannot read the checkpoint"),
        ("config.json", b'{"architecture": "other"}', "unknown architecture"),
        ("config.json", b'{"architecture": "momamba", "model": {"width": "wide"}}', "model.width"),
    ],
)
def test_damage_is_explained(saved, file, content, message):
    _, folder = saved
    (folder / file).write_bytes(content)
    with pytest.raises(AesError, match=message):
        load_checkpoint(folder)


def test_weights_of_another_model_name_the_tensor(saved):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    config["model"]["width"] = 16
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(AesError, match="the config needs"):
        load_checkpoint(folder)
    config["model"]["modules"] = "B"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(AesError, match="belong to different models"):
        load_checkpoint(folder)
