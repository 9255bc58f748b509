"""Acceptance rules: what a round's pulls contribute to the selection, one rule a file.

Every rule accepts in order of influence, down to the threshold tau, within the token budget and the share of each cluster.
A new rule is a class, an entry in `ACCEPTANCES` and a test.
"""

from beam_quad.bandit.acceptance.filling import take_blocks as take_blocks
from beam_quad.bandit.acceptance.filling import take_examples as take_examples
from beam_quad.bandit.acceptance.instances import Instances as Instances
from beam_quad.bandit.acceptance.propagated import Propagated as Propagated
from beam_quad.bandit.acceptance.rule import Acceptance as Acceptance
from beam_quad.bandit.acceptance.rule import Accepts as Accepts
from beam_quad.bandit.acceptance.whole_blocks import WholeBlocks as WholeBlocks
from beam_quad.bandit.acceptance.whole_clusters import WholeClusters as WholeClusters

ACCEPTANCES: dict[str, type[Acceptance]] = {
    rule.name: rule for rule in (WholeBlocks, Instances, Propagated, WholeClusters)
}
