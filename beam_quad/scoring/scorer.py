"""Base class of scorers with a proxy."""

from collections.abc import Sequence

from beam_quad.gradients.passes import Fitting
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.windows import Documents


class ProxyScorer:
    """A scorer that passes texts through a proxy.

    Args:
      proxy: The model.
    """

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        # Kept by scorer, because the scorer's own vectors on the device reduce the batch that fits.
        self._fitting = Fitting()

    @property
    def num_halvings(self) -> int:
        """How often a micro-batch was halved so far because memory ran out."""
        return self._proxy.num_halvings

    def prepare(self, texts: Sequence[str]) -> Documents:
        """Tokenises texts for `score`; may run ahead of the device in another thread."""
        return self._proxy.read(texts)
