"""The bandit over clusters: blocks, exact arm statistics, the policy and its replay. NumPy only."""

from beam_quad.bandit.acceptance import ACCEPTANCES as ACCEPTANCES
from beam_quad.bandit.acceptance import Acceptance as Acceptance
from beam_quad.bandit.acceptance import Accepts as Accepts
from beam_quad.bandit.arms import PullScores as PullScores
from beam_quad.bandit.arms import RoundScores as RoundScores
from beam_quad.bandit.blocks import INSTANCE_SAMPLES as INSTANCE_SAMPLES
from beam_quad.bandit.blocks import Blocks as Blocks
from beam_quad.bandit.blocks import block_of as block_of
from beam_quad.bandit.blocks import default_samples_per_pull as default_samples_per_pull
from beam_quad.bandit.blocks import example_blocks as example_blocks
from beam_quad.bandit.blocks import first_drawn as first_drawn
from beam_quad.bandit.blocks import highest_draws as highest_draws
from beam_quad.bandit.blocks import num_blocks as num_blocks
from beam_quad.bandit.blocks import num_drawn as num_drawn
from beam_quad.bandit.blocks import num_groups as num_groups
from beam_quad.bandit.blocks import num_instance_blocks as num_instance_blocks
from beam_quad.bandit.policy import QuadPolicy as QuadPolicy
from beam_quad.bandit.policy import replay as replay
from beam_quad.bandit.pulls import Pulls as Pulls
from beam_quad.bandit.shortfall import shortfall_message as shortfall_message
from beam_quad.bandit.state import AcceptedBlock as AcceptedBlock
from beam_quad.bandit.state import AcceptedExamples as AcceptedExamples
from beam_quad.bandit.state import ArmTable as ArmTable
from beam_quad.bandit.state import BanditState as BanditState
from beam_quad.bandit.state import RoundRecord as RoundRecord
