import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from taste import SCALE, ratings, world

from aescli.errors import AesError
from aescli.personalization.adapter import fit_adapter, personal_scores
from aescli.personalization.learning import (
    RaterScores,
    beside_consensus,
    express,
    guided_components,
    learn_prior,
)
from aescli.personalization.prior import (
    FILE,
    load_prior,
    principal_components,
    save_prior,
    unlearned_prior,
)


def raters_of(prior, features, generic, count, each, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        rows = rng.choice(len(generic), each, replace=False)
        beta = rng.multivariate_normal(prior.mean, prior.covariance)
        y = prior.design(features[rows], generic[rows]) @ beta + rng.normal(0, np.sqrt(prior.noise), each) + 3
        found.append(RaterScores(rows, y, generic[rows]))
    return found


def test_the_covariance_of_tastes_is_recovered():
    features, generic, prior = world(images=300)
    raters = raters_of(prior, features, generic, 400, 60)
    # A rater's spread is divided out of the scores, so the directions are compared, not the sizes.
    got = learn_prior(
        "b", SCALE, features, raters, generic_error=0.0, temper=1.0, iterations=40,
        reduction=(prior.centre, prior.projection),
    )  # fmt: skip
    mine, true = got.covariance[2:, 2:], prior.covariance[2:, 2:]
    similarity = (mine * true).sum() / np.sqrt((mine**2).sum() * (true**2).sum())
    assert similarity > 0.97
    assert similarity > 0.05 + np.trace(true) / np.sqrt(3 * (true**2).sum())  # more than no direction at all
    assert 0.5 < got.noise / prior.noise < 2


def test_a_learned_prior_beats_an_unlearned_one_on_new_people():
    features, generic, prior = world(images=300, channels=40, components=3)
    raters = raters_of(prior, features, generic, 200, 60)
    learned = learn_prior("b", SCALE, features, raters, generic_error=0.0, temper=1.0)
    plain = unlearned_prior("b", SCALE, features)
    scores = []
    for seed in range(100, 140):
        y = ratings(np.random.default_rng(seed), prior, features, generic)
        row = []
        for one in (learned, plain):
            adapter = fit_adapter(one, features[:10], generic[:10], y[:10], SCALE)
            row.append(np.corrcoef(personal_scores(features[10:], generic[10:], adapter), y[10:])[0, 1])
        scores.append((*row, np.corrcoef(generic[10:], y[10:])[0, 1]))
    learned_score, plain_score, none = np.mean(scores, 0)
    assert learned_score > plain_score + 0.02
    assert learned_score > none + 0.05


def test_temper_and_generic_error_make_it_more_careful():
    features, generic, prior = world(images=100)
    raters = raters_of(prior, features, generic, 30, 20)
    bold, careful = (
        learn_prior("b", SCALE, features, raters, generic_error=e, temper=t) for e, t in ((0, 1), (0.3, 0.25))
    )
    np.testing.assert_allclose(careful.covariance[2:, 2:], bold.covariance[2:, 2:] * 0.25)
    np.testing.assert_allclose(careful.covariance[:2, :2], bold.covariance[:2, :2])
    assert careful.noise == pytest.approx(bold.noise + 0.3)
    assert np.linalg.eigvalsh(careful.covariance).min() > 0


def test_too_few_raters_are_refused():
    features, generic, prior = world()
    with pytest.raises(AesError, match="at least 10 raters of 8 images or more; there are 9"):
        learn_prior("b", SCALE, features, raters_of(prior, features, generic, 9, 20), generic_error=0.0)


def test_the_consensus_leaves_the_rater_out():
    rng = np.random.default_rng(0)
    table = [(i, f"r{r}", rng.uniform(1, 5)) for i in range(6) for r in range(4) if (i + r) % 5]
    positions, raters, scores = (np.array(column) for column in zip(*table, strict=True))
    generic = rng.uniform(1, 5, 6)
    found = beside_consensus(positions, raters, scores, generic, shrink=2.0)
    mean = {i: np.mean([s for j, _, s in table if j == i]) for i in range(6)}
    deviation = {r: np.mean([s - mean[i] for i, q, s in table if q == r]) for r in set(raters)}
    for name, one in zip(sorted(set(raters)), found, strict=True):
        for i, score, value in zip(one.positions, one.scores, one.generic, strict=True):
            assert (i, name, score) in table
            others = [s - deviation[r] for j, r, s in table if j == i and r != name]
            assert value == pytest.approx((sum(others) + 2 * generic[i]) / (len(others) + 2))


def test_components_keep_the_standardised_distances():
    features = np.random.default_rng(0).normal(size=(50, 8)) * np.arange(1, 9)
    centre, projection = principal_components(features, 8)
    x = (features - centre) @ projection
    assert (x**2).sum(1).mean() == pytest.approx(1)
    z = (features - features.mean(0)) / features.std(0)
    gram = z @ z.T
    np.testing.assert_allclose(x @ x.T, gram / np.trace(gram) * 50, atol=1e-9)
    assert principal_components(features, 99)[1].shape == (8, 8)
    assert np.isfinite(principal_components(np.ones((4, 3)), 2)[1]).all()


def test_what_a_guide_shows_is_read_from_the_features():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(400, 4))
    features = hidden @ rng.normal(size=(4, 30)) + 0.1 * rng.normal(size=(400, 30))
    wanted = hidden - hidden[:300].mean(0)
    centre, projection = express(features[:300], wanted[:300])
    got = (features[300:] - centre) @ projection
    assert np.corrcoef(got.ravel(), wanted[300:].ravel())[0, 1] > 0.99
    centre, projection = guided_components(features, hidden @ rng.normal(size=(4, 12)), guided=4, plain=5)
    assert projection.shape == (30, 9)
    assert (((features - centre) @ projection) ** 2).sum(1).mean() == pytest.approx(1, abs=0.05)


def test_a_prior_is_stored_beside_its_model_and_bound_to_it(tmp_path):
    _, _, prior = world(channels=500, components=20)
    assert load_prior(tmp_path, "base-1") is None
    path = save_prior(prior, tmp_path)
    got = load_prior(tmp_path, "base-1")
    np.testing.assert_allclose(got.covariance, prior.covariance, rtol=1e-6)
    np.testing.assert_allclose(got.projection, prior.projection, atol=1e-3 * np.abs(prior.projection).max())
    empty = dict.fromkeys(("centre", "projection", "mean", "covariance"), 0)
    assert replace(got, **empty) == replace(prior, **empty)
    with pytest.raises(AesError, match="learned for the model base-1, not for base-2"):
        load_prior(tmp_path, "base-2")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(AesError, match=f"{FILE}: cannot be read"):
        load_prior(tmp_path, "base-1")


def test_the_bundled_model_carries_its_prior():
    from aescli.models.checkpoint import load_checkpoint

    checkpoint = load_checkpoint("momamba-lite")
    prior = load_prior(checkpoint.path, checkpoint.digest)
    assert prior.scale == checkpoint.card.score_range
    assert np.linalg.eigvalsh(prior.covariance).min() > 0
    assert (checkpoint.path / FILE).stat().st_size < 1_000_000
    assert "raters of MEBeauty" in prior.origin
