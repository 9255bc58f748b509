import numpy as np
import pytest

from beam_quad.distillation import KernelRidge, propagation


@pytest.fixture
def points():
    generator = np.random.default_rng(0)
    points = generator.normal(size=(60, 8)).astype(np.float32)
    targets = np.stack([np.sin(points[:, 0]) + 5, points[:, 1] ** 2], axis=1).astype(np.float64)
    return points, targets


# Below .001 the kernel is computed in double precision too.
@pytest.mark.parametrize(("added", "tolerance"), [(0.01, 1e-6), (0.0009, 1e-10)])
def test_predictions_are_those_of_the_formula(points, keys, added, tolerance):
    embeddings, targets = points
    x, landmarks, t = embeddings.astype(float), embeddings[:30].astype(float), targets[:30]
    ridge = KernelRidge.fit(embeddings[:30], t, keys(30), ridge=added, bandwidth=1.7)

    def kernel(a, b):
        return np.exp(-((a[:, None] - b) ** 2).sum(-1) / (2 * 1.7**2))

    duals = np.linalg.solve(kernel(landmarks, landmarks) + added * np.eye(30), t - t.mean(0))
    expected = t.mean(0) + kernel(x, landmarks) @ duals
    np.testing.assert_allclose(ridge.predict(embeddings), expected, atol=tolerance, rtol=0)


def test_all_examples_as_landmarks_without_ridge_give_the_exact_matrix(points, keys):
    embeddings, targets = points
    ridge = KernelRidge.fit(embeddings, targets, keys(60), ridge=1e-12)
    np.testing.assert_allclose(ridge.predict(embeddings), targets, atol=1e-8)


def test_landmarks_keep_their_exact_value_where_asked(points, keys):
    embeddings, targets = points
    ridge = KernelRidge.fit(embeddings[:30], targets[:30], keys(60)[:30], ridge=1.0)
    predicted, kept = ridge.predict(embeddings), ridge.predict(embeddings, keys(60))
    np.testing.assert_array_equal(kept[:30], targets[:30])
    np.testing.assert_array_equal(kept[30:], predicted[30:])
    assert not np.allclose(predicted[:30], targets[:30])


def test_what_is_far_from_every_landmark_is_predicted_the_mean(points, keys):
    embeddings, targets = points
    ridge = KernelRidge.fit(embeddings, targets, keys(60))
    np.testing.assert_allclose(ridge.predict(embeddings[:1] + 1e4), targets.mean(0)[None])


def test_the_bandwidth_is_the_median_distance(points, keys):
    embeddings, _ = points
    differences = (embeddings[:, None] - embeddings)[np.triu_indices(60, k=1)]
    expected = np.median(np.linalg.norm(differences, axis=1))
    assert propagation.median_distance(embeddings, keys(60), seed=0) == pytest.approx(expected)


def test_the_bandwidth_is_drawn_by_seed_where_landmarks_are_many(keys):
    embeddings = np.random.default_rng(0).normal(size=(1100, 2))
    first, again, other = (
        propagation.median_distance(embeddings, keys(1100), s) for s in (0, 0, 1)
    )
    assert first == again != other


def test_duplicates_do_not_narrow_the_kernel_and_alone_predict_their_mean(keys):
    embeddings = np.repeat(np.array([[1.0, 0.0], [0.0, 1.0]]), [45, 5], axis=0)
    assert propagation.median_distance(embeddings, keys(50), 0) == pytest.approx(2**0.5)
    alone = KernelRidge.fit(embeddings[:3], np.array([[1.0], [2.0], [6.0]]), keys(3))
    np.testing.assert_allclose(alone.predict(embeddings), 3.0)


def test_the_order_of_landmarks_changes_no_bit(points, keys):
    embeddings, targets = points
    order = np.random.default_rng(1).permutation(60)
    ridge = KernelRidge.fit(embeddings, targets, keys(60))
    shuffled = KernelRidge.fit(embeddings[order], targets[order], keys(60)[order])
    assert shuffled.to_bytes() == ridge.to_bytes()


@pytest.mark.parametrize("num_landmarks", [9, 30, 100])
@pytest.mark.parametrize("added", [0.01, 0.0009])
def test_the_bits_of_a_prediction_depend_on_no_other_example(
    keys, monkeypatch, num_landmarks, added
):
    generator = np.random.default_rng(0)
    points = generator.normal(size=(700, 26)).astype(np.float16)
    targets = generator.normal(size=(num_landmarks, 3))
    landmarks = points[:num_landmarks]
    ridge = KernelRidge.fit(landmarks, targets, keys(num_landmarks), ridge=added)
    read = KernelRidge.from_bytes(ridge.to_bytes())
    whole = ridge.predict(points)
    monkeypatch.setattr(propagation, "_ENTRIES", 600 * 100)
    for size in (1, 5, 300, 699):
        some = generator.choice(len(points), size, replace=False)
        np.testing.assert_array_equal(read.predict(points[some]), whole[some])


def test_near_duplicates_far_from_the_origin_are_told_apart(keys):
    points = 1 + 1e-3 * np.random.default_rng(0).normal(size=(40, 8))
    ridge = KernelRidge.fit(points[:30], points[:30, :1] * 1e3, keys(30))
    in_double = ridge.coefficients(points[30:]) @ ridge.targets
    np.testing.assert_allclose(ridge.predict(points[30:]), in_double, atol=1e-5)


def test_coefficients_write_predictions_as_averages_of_the_landmarks(points, keys):
    embeddings, targets = points
    ridge = KernelRidge.fit(embeddings[:30], targets[:30], keys(30), ridge=0.0009)
    coefficients = ridge.coefficients(embeddings)
    np.testing.assert_allclose(coefficients.sum(axis=1), 1)
    np.testing.assert_allclose(coefficients @ ridge.targets, ridge.predict(embeddings))


def test_what_is_not_finite_is_refused_by_name(points, keys):
    embeddings, targets = points
    targets[7, 1] = np.nan
    with pytest.raises(
        ValueError, match=rf"targets of landmarks.*rows 7 \(key {keys(60)[7]:#018x}"
    ):
        KernelRidge.fit(embeddings, targets, keys(60))
    ridge = KernelRidge.fit(embeddings[:5], targets[:5], keys(5))
    embeddings[3] = np.inf
    with pytest.raises(ValueError, match=r"embeddings must be finite.*rows 3 are not"):
        ridge.predict(embeddings)


def test_what_cannot_be_regressed_is_refused(points, keys):
    embeddings, targets = points
    twice, t = np.repeat(embeddings[:5], 2, axis=0), np.repeat(targets[:5], 2, axis=0)
    with pytest.raises(ValueError, match="singular with ridge 0"):
        KernelRidge.fit(twice, t, keys(10), ridge=0)
    with pytest.raises(ValueError, match="comes twice"):
        KernelRidge.fit(embeddings, targets, np.repeat(keys(30), 2))
    with pytest.raises(ValueError, match="no landmarks"):
        KernelRidge.fit(embeddings[:0], targets[:0], keys(0))
    with pytest.raises(ValueError, match="another embedder"):
        KernelRidge.fit(embeddings, targets, keys(60)).predict(embeddings[:, :4])
