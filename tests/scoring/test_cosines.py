import numpy as np

from beam_quad.scoring.cosines import cosines, scaled_sketches, sketched_products


def test_products_of_sketches_are_those_of_unit_gradients_with_vectors_of_any_norm():
    generator = np.random.default_rng(0)
    gradients = generator.normal(size=(3, 40))
    unit = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    vectors = generator.normal(size=(2, 40)) * [[1e-3], [50.0]]
    norms = np.linalg.norm(vectors, axis=1)
    # The identity is a sketch that loses nothing.
    sketched = [(v / n, n) for v, n in zip(vectors, norms, strict=True)]
    found = sketched_products(unit.astype(np.float16), scaled_sketches(sketched))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, unit.astype(np.float16).astype(float) @ vectors.T)
    expected = [
        [g @ v / (np.linalg.norm(g) * np.linalg.norm(v)) for v in vectors] for g in gradients
    ]
    np.testing.assert_allclose(cosines(found, norms), expected, atol=2e-3)
