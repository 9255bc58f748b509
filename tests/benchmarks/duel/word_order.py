"""Whether a proxy uses the order of words: what shuffling them costs it."""

import numpy as np

from beam_quad import seeding
from beam_quad.gradients import load_tokenizer
from pipelines.demo import evaluation, proxy
from tests.benchmarks.duel.kept import Kept
from tests.benchmarks.duel.material import Material


def shuffling_costs(material: Material, kept: Kept) -> tuple[float, float]:
    """Measures the general mix, as it is and with the words of each text shuffled.

    White space is made single in both, so that nothing but the order of words differs.

    Returns:
      The losses of both, nats per token.
    """
    plain = [" ".join(text.split()) for text in material.general]
    shuffled = []
    for i, text in enumerate(plain):
        words = text.split()
        seeding.generator(0, "shuffled words", i).shuffle(words)
        shuffled.append(" ".join(words))

    def compute() -> np.ndarray:
        tokenizer = load_tokenizer(str(material.model), None)
        model = evaluation.load(material.model).eval()
        return np.array(
            [proxy.mean_loss(model, proxy.encode(tokenizer, own)) for own in (plain, shuffled)]
        )

    found = kept.get("word order", (material.fingerprint, *shuffled), compute)
    return float(found[0]), float(found[1])
