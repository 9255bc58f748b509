"""What all scorers with a proxy share."""

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
        # With the vectors of this scorer on the device.
        self._fitting = Fitting()

    @property
    def num_halvings(self) -> int:
        """How often memory ran out so far, and a micro-batch was halved."""
        return self._proxy.num_halvings

    def prepare(self, texts: Sequence[str]) -> Documents:
        """Tokenises texts for `score`; may run in another thread, ahead of the device."""
        return self._proxy.read(texts)
