import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from taste import SCALE, ratings, world

from aescli.personalization.adapter import fit_adapter, personal_scores
from aescli.personalization.selection import most_informative


@pytest.mark.parametrize("known", [0, 4])
def test_each_step_takes_the_image_that_tells_most(known):
    features, generic, prior = world()
    seen, pool = np.arange(known), np.arange(known, len(generic))
    rated = (features[seen], generic[seen]) if known else None
    got = most_informative(prior, features[pool], generic[pool], 6, rated=rated)
    a = prior.design(features[pool], generic[pool])
    all_rows = np.vstack([a, prior.design(features[seen], generic[seen])]) if known else a

    def left(rows):
        k = all_rows[[*rows, *range(len(a), len(all_rows))]]
        gain = (
            prior.covariance @ k.T @ np.linalg.inv(k @ prior.covariance @ k.T + prior.noise * np.eye(len(k)))
        )
        centred = a - a.mean(0)
        return np.trace(centred @ (prior.covariance - gain @ k @ prior.covariance) @ centred.T)

    for step in range(6):
        others = [i for i in range(len(a)) if i not in got[:step]]
        assert got[step] == min(others, key=lambda i: left([*got[:step], i]))


def test_copies_of_a_photo_are_not_proposed_together():
    features, generic, prior = world()
    chosen = most_informative(prior, features, generic, 1)[0]
    near = np.repeat(features[[chosen]], 10, 0), np.repeat(generic[[chosen]], 10)
    pool = np.vstack([near[0], features]), np.concatenate([near[1], generic])
    got = most_informative(prior, *pool, 6)
    assert len(set(got)) == 6
    # Alone, each of the eleven copies would tell most.
    assert sum(i < 10 or i == 10 + chosen for i in got) <= 2


def test_more_than_there_are_gives_all():
    features, generic, prior = world(images=5)
    assert sorted(most_informative(prior, features, generic, 9)) == [0, 1, 2, 3, 4]


def test_chosen_photos_teach_more_than_random_ones():
    features, generic, prior = world(images=200)
    rng = np.random.default_rng(0)
    chosen = most_informative(prior, features[:100], generic[:100], 8)
    gains = []
    for _ in range(60):
        y = ratings(rng, prior, features, generic)
        row = []
        for shots in (chosen, rng.permutation(100)[:8]):
            adapter = fit_adapter(prior, features[shots], generic[shots], y[shots], SCALE)
            row.append(np.corrcoef(personal_scores(features[100:], generic[100:], adapter), y[100:])[0, 1])
        gains.append(row[0] - row[1])
    assert np.mean(gains) > 2 * np.std(gains) / np.sqrt(len(gains))
