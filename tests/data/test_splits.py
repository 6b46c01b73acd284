"""Splits: groups never parted, sizes and scores balanced, files reusable; near-duplicates found."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from aescli.data import duplicates, splits
from aescli.data.datasets import read_dataset
from aescli.data.datasets.base import Dataset, ReadReport, Sample
from aescli.data.images import ImageError
from aescli.errors import AesError

REAL = os.environ.get("AESCLI_DATA")


def make(scores, folds=None, part=None) -> Dataset:
    samples = [
        Sample(
            Path(f"{i}.jpg"),
            f"{i}.jpg",
            float(score),
            fold=folds[i] if folds else None,
            split=part[i] if part else None,
        )
        for i, score in enumerate(scores)
    ]
    return Dataset("toy", samples, (1.0, 5.0), ReadReport(Path("toy.csv")))


scored = st.lists(st.tuples(st.floats(1, 5), st.integers(0, 8)), min_size=12, max_size=60)


@settings(deadline=None)
@given(scored, st.integers(2, 5), st.integers(0, 5), st.randoms())
def test_groups_stay_whole_and_order_does_not_matter(items, k, seed, random):
    groups = [group if group < 4 else 100 + i for i, (_, group) in enumerate(items)]
    scores = [score for score, _ in items]
    names = [f"{i:03d}" for i in range(len(items))]
    if len(set(groups)) < k:
        return
    parts = splits.apportion([1.0] * k, names, scores, groups, seed=seed)
    assert len(parts) == len(items)
    for group in set(groups):
        assert len({int(part) for part, g in zip(parts, groups, strict=True) if g == group}) == 1
    largest = max(Counter(groups).values())
    sizes = np.bincount(parts, minlength=k)
    assert sizes.max() - sizes.min() <= 2 * largest
    order = list(range(len(items)))
    random.shuffle(order)
    again = splits.apportion(
        [1.0] * k,
        [names[i] for i in order],
        [scores[i] for i in order],
        [groups[i] for i in order],
        seed=seed,
    )
    assert again.tolist() == [parts[i] for i in order]


def test_holdout_is_exact_stratified_and_seeded():
    rng = np.random.default_rng(0)
    scores = rng.uniform(1, 5, 1000)
    dataset = make(scores)
    split = splits.holdout(dataset, test=0.2, seed=3)
    test = split.indices(dataset, "test")
    assert len(test) == 200
    assert set(test).isdisjoint(split.indices(dataset, "train"))
    # Every fifth of the score range gets its fifth: a random draw would be off by about ±6.
    by_height = np.bincount(np.searchsorted(np.sort(scores), scores[test], side="left") // 200, minlength=5)
    assert by_height.tolist() == pytest.approx([40] * 5, abs=2)
    assert splits.holdout(dataset, test=0.2, seed=3) == split
    assert splits.holdout(dataset, test=0.2, seed=4).digest != split.digest


def test_kfold_covers_everything_once_and_strata_are_even():
    dataset = make(np.linspace(1, 5, 100))
    strata = ["a" if i % 4 else "b" for i in range(100)]
    split = splits.kfold(dataset, 5, strata=strata)
    members = [split.indices(dataset, str(k)) for k in range(1, 6)]
    assert sorted(np.concatenate(members)) == list(range(100))
    assert [sum(strata[i] == "b" for i in fold) for fold in members] == [5] * 5
    assert [len(fold) for fold in members] == [20] * 5


def test_validation_comes_from_training_only_and_keeps_groups():
    dataset = make(np.linspace(1, 5, 100), folds=[i % 5 + 1 for i in range(100)])
    train, test = splits.official_fold(dataset, 2)
    assert (len(train), len(test)) == (80, 20)
    groups = [i // 10 for i in range(100)]
    left, validation = splits.carve_validation(dataset, train, share=0.25, groups=groups)
    assert sorted([*left, *validation]) == sorted(train)
    assert splits.crossing_groups(groups, left, validation) == []
    assert 8 <= len(validation) <= 32
    assert splits.crossing_groups(groups, train, test) == list(range(10))


def test_official_parts_that_do_not_exist():
    dataset = make([1, 2, 3], folds=[1, 2, 2], part=["train", "train", "val"])
    assert splits.named_split(dataset, "val").tolist() == [2]
    with pytest.raises(AesError, match=r"no fold 7; it has 1, 2"):
        splits.official_fold(dataset, 7)
    with pytest.raises(AesError, match=r"no split 'test'; it has train, val"):
        splits.named_split(dataset, "test")


@pytest.mark.parametrize(
    ("shares", "names", "groups"),
    [([1.0], "ab", None), ([1, 0], "ab", None), ([1, 1], "aa", None)],
)
def test_impossible_splits(shares, names, groups):
    with pytest.raises(ValueError, match=r"split|unique"):
        splits.apportion(shares, list(names), [1.0] * len(names), groups)


def test_too_few_groups_for_the_parts():
    with pytest.raises(AesError, match=r"2 images in 1 groups of near-duplicates .* label more"):
        splits.apportion([1, 1], ["a", "b"], [1.0, 1.0], [0, 0])


def test_split_files_come_back_and_notice_changes(tmp_path):
    dataset = make(np.linspace(1, 5, 20))
    content = [f"{i:016x}" for i in range(20)]
    split = splits.holdout(dataset, seed=7, content=content)
    path = tmp_path / "deep" / "split.json"
    split.save(path)
    loaded = splits.Split.load(path)
    assert loaded == split
    document = json.loads(path.read_text())
    assert (document["seed"], document["sizes"]) == (7, {"train": 16, "test": 4})
    names = [sample.name for sample in dataset.samples]
    assert loaded.verify(names, content) == []
    assert loaded.verify(names[1:], content[1:]) == ["0.jpg: in the split, not in the data"]
    other = [*content[:-1], "f" * 16]
    assert loaded.verify([*names, "x.jpg"], [*other, "0"]) == [
        "x.jpg: in the data, not in the split",
        "19.jpg: another file than the one that was split",
    ]

    moved = document["parts"]["train"].pop()
    document["parts"]["test"].append(moved)
    path.write_text(json.dumps(document))
    with pytest.raises(AesError, match="changed after it was made"):
        splits.Split.load(path)
    document["parts"]["train"].append(moved)
    path.write_text(json.dumps(document))
    with pytest.raises(AesError, match="in two parts"):
        splits.Split.load(path)
    path.write_text("[]")
    with pytest.raises(AesError, match="not a split file"):
        splits.Split.load(path)
    with pytest.raises(AesError, match=r"16 images .*not in toy\.csv"):
        split.indices(make([1.0]).subset([]), "train")
    with pytest.raises(AesError, match="no part 'val'"):
        split.indices(dataset, "val")


# ---------------------------------------------------------------- near-duplicates


def textured(seed: int) -> Image.Image:
    """A picture with structure at all scales, like a photo."""
    rng = np.random.default_rng(seed)
    image = np.zeros((96, 96, 3))
    for side in (3, 6, 12, 24):
        layer = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        image += np.asarray(layer.resize((96, 96), Image.Resampling.BICUBIC), dtype=float) * (3 / side)
    image = 255 * (image - image.min()) / np.ptp(image)
    return Image.fromarray(image.astype(np.uint8))


def test_copies_are_joined_and_strangers_are_not(tmp_path):
    paths = []

    def save(image, name, **options):
        paths.append(tmp_path / name)
        image.save(paths[-1], **options)

    for seed in range(12):
        save(textured(seed), f"{seed}.png")
    save(textured(0), "0.jpg", quality=60)
    save(textured(1).resize((61, 61)), "1.jpg", quality=90)
    save(textured(2).filter(ImageFilter.GaussianBlur(1)), "2.png.jpg", quality=80)
    (tmp_path / "same.png").write_bytes((tmp_path / "3.png").read_bytes())
    paths.append(tmp_path / "same.png")
    for colour in ("white", "red"):
        save(Image.new("RGB", (64, 64), colour), f"{colour}.png")

    groups = duplicates.duplicate_groups(duplicates.fingerprints(paths)).tolist()
    assert groups == [*range(12), 0, 1, 2, 3, 12, 13]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 2**64 - 1), min_size=1, max_size=20), st.integers(0, 40))
def test_near_pairs_are_the_bit_counts(values, most):
    bits = np.array(values, dtype=np.uint64)
    expected = {
        (i, j, bin(values[i] ^ values[j]).count("1"))
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if bin(values[i] ^ values[j]).count("1") <= most
    }
    assert set(duplicates.near_pairs(bits, most)) == expected
    across = {(i, j) for i, j, _ in duplicates.near_pairs(bits, most, bits)}
    assert {(i, i) for i in range(len(values))} <= across


def test_the_bit_count_without_numpy_2(monkeypatch):
    values = np.random.default_rng(0).integers(0, 2**63, (5, 7), dtype=np.uint64)
    expected = np.bitwise_count(values)
    monkeypatch.delattr(np, "bitwise_count")
    assert duplicates._count_bits(values).tolist() == expected.tolist()


def test_the_cache_saves_decoding_and_is_never_trusted_blindly(tmp_path, monkeypatch):
    cache = tmp_path / "cache" / "prints.npz"
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        textured(i).save(path)
    first = duplicates.fingerprints(paths, cache)
    decoded = []
    real = duplicates._fingerprint
    monkeypatch.setattr(duplicates, "_fingerprint", lambda path: decoded.append(path) or real(path))
    again = duplicates.fingerprints(paths[::-1], cache)
    assert decoded == []
    assert again.content == first.content[::-1]
    assert (again.grey == first.grey[::-1]).all()

    textured(9).save(paths[1])
    os.utime(paths[1], ns=(1, 1))
    changed = duplicates.fingerprints(paths, cache)
    assert decoded == [paths[1]]
    assert changed.content[1] != first.content[1]

    cache.write_bytes(b"PK rubbish")
    assert duplicates.fingerprints(paths, cache).content == changed.content
    assert len(decoded) == 4


@pytest.mark.realdata
@pytest.mark.skipif(not REAL, reason="AESCLI_DATA names no data folder")
def test_real_mebeauty_duplicates(tmp_path):
    dataset = read_dataset("auto", Path(REAL) / "mebeauty")
    prints = duplicates.fingerprints([sample.path for sample in dataset.samples], tmp_path / "c.npz")
    copies = {content for content, n in Counter(prints.content).items() if n > 1}
    parts: dict[str, set] = {}
    for sample, content in zip(dataset.samples, prints.content, strict=True):
        parts.setdefault(content, set()).add(sample.split)
    assert len(copies) == 23
    assert sum(len(parts[content]) > 1 for content in copies) == 5
    groups = duplicates.duplicate_groups(prints)
    # The 24 byte-identical pairs and the copies that were saved again; no chain of look-alikes.
    assert 1800 <= len(set(groups)) <= 1852 - 33
    assert np.bincount(groups).max() <= 3
    split = splits.kfold(dataset, 5, groups=groups, content=prints.content)
    folds = [split.indices(dataset, str(k)) for k in range(1, 6)]
    assert splits.crossing_groups(groups, *folds) == []
    assert max(map(len, folds)) - min(map(len, folds)) <= 2


def test_an_unreadable_file_can_be_passed_over_and_resembles_nothing(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(paths[0])
    paths[1].write_bytes(b"broken")
    paths[2].write_bytes(paths[0].read_bytes())
    unreadable = {}
    prints = duplicates.fingerprints(paths, tmp_path / "c.npz", unreadable=unreadable)
    assert sorted(unreadable) == [1, 3], "broken, and absent"
    assert duplicates.duplicate_groups(prints).tolist() == [0, 1, 0, 2]
    with pytest.raises(ImageError):
        duplicates.fingerprints(paths, tmp_path / "c.npz")
