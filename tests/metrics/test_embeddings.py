from __future__ import annotations

import numpy as np
import pytest
from kinfold.metrics.embeddings import centred, cosine_floor, cosine_table


def _sample(rng, n, mean):
    return rng.normal(size=(n, len(mean))) + mean


@pytest.mark.parametrize("n", [40, 200])
@pytest.mark.parametrize("length", [0.6, 3.0])
def test_fresh_samples_of_one_domain_fall_below_the_floor_once_in_twenty_times(n, length):
    rng = np.random.default_rng(0)
    mean = np.zeros(24)
    mean[0] = length
    below = 0
    for trial in range(150):
        pair = [_sample(rng, n, mean), _sample(rng, n, mean)]
        below += cosine_table(pair)[0][0, 1] < cosine_floor(pair, ["a", "b"], seed=trial)[0, 1]
    assert 0.01 <= below / 150 <= 0.13


def test_other_directions_lie_below_the_floor():
    rng = np.random.default_rng(1)
    means = np.eye(6, 24) * 2 + 0.5
    data = centred([_sample(rng, 120, mean) for mean in means])
    value, floor = cosine_table(data)[0], cosine_floor(data, list("abcdef"))
    upper = np.triu_indices(6, 1)
    assert (value[upper] < floor[upper]).all()
    np.testing.assert_array_equal(floor, floor.T)
    np.testing.assert_array_equal(floor, cosine_floor(data, list("abcdef")))
    # A domain's own floor does not depend on its company.
    assert cosine_floor(data[:1], ["a"])[0, 0] == floor[0, 0]


def test_too_few_documents_or_no_direction_leave_nothing_above_noise():
    rng = np.random.default_rng(2)
    assert cosine_floor([_sample(rng, 3, np.ones(4))], ["few"])[0, 0] == -1.0
    assert cosine_floor([np.zeros((40, 4))], ["nowhere"])[0, 0] == -1.0
    noise = rng.normal(size=(200, 16))
    assert cosine_floor([noise - noise.mean(axis=0)], ["centre"])[0, 0] == -1.0
