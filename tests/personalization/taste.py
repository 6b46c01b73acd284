"""A small world of raters whose tastes are known, for the tests of personal models."""

import numpy as np

from aescli.personalization.prior import TastePrior

SCALE = (1.0, 5.0)


def world(seed=0, images=60, channels=6, components=3):
    """(features (n, d), generic (n,), prior with fixed numbers and a reduction that is not trivial)."""
    rng = np.random.default_rng(seed)
    features = rng.normal(2.0, 1.5, (images, channels))
    root = rng.normal(size=(2 + components, 2 + components)) * 0.3
    prior = TastePrior(
        base="base-1",
        scale=SCALE,
        centre=features.mean(0),
        projection=rng.normal(size=(channels, components)) / 3,
        mean=np.r_[0.1, 1.0, np.zeros(components)],
        covariance=root @ root.T + 0.05 * np.eye(2 + components),
        noise=0.4,
        spread=0.8,
        origin="a test",
    )
    return features, rng.uniform(1.5, 4.5, images), prior


def ratings(rng, prior, features, generic, noise=0.4):
    """(n,) scores of one person drawn from the prior, on the model's scale."""
    beta = rng.multivariate_normal(prior.mean, prior.covariance)
    scores = prior.design(features, generic) @ beta + sum(prior.scale) / 2
    return np.clip(scores + rng.normal(0, np.sqrt(noise), len(generic)), *prior.scale)
