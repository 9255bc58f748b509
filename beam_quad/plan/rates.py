"""What a document, a byte or a row takes on one CPU core: the unit costs that plans are made of.

Seconds of CPU time unless a name says otherwise. Measured by `python -m tests.benchmarks.scale --measure` on Zipf words
where nothing else is said; its README has the runs.
"""

from typing import NamedTuple

# Of any stage of a chain, on a local runner: its graph, its listing, its artifact.
STAGE_S = 0.17
# Reading, tokenising for the proxy, and counting what n-grams there are; scoring by them. Of a byte of text.
COUNT_NGRAMS_BYTE_S = 4.0e-7
SCORE_NGRAMS_BYTE_S = 5.1e-7
# A core tokenises 1.5 MB of text a second (tokenizers 0.22, byte-level BPE, English).
TOKENISE_BYTE_S = 1 / 1.5e6
# The same for a sentence encoder or a static one (WordPiece), which were 1.4 times as fast in one run.
WORDPIECE_BYTE_S = 1 / 2.1e6
# Hashing the words of a byte of text, which is read with it; what else a document takes that is embedded and written.
HASH_BYTE_S = 5.8e-8
EMBED_ROW_S = 2.1e-5
# Signing the words of a byte of English, 13 MB a second; linking and comparing a document (`tests.benchmarks.twins`).
SIGN_BYTE_S = 1 / 13e6
COMPARE_ROW_S = 1e-5
# An embedding that is read, normalised and joined with its row, in a pass that looks at all of them.
ASSIGN_ROW_S = 6e-6
# A point of the sample that centers are fitted to, beside its products.
FIT_POINT_S = 6e-5
# Products of float32 matrices: of k-means, where they are large, and of everything else.
KMEANS_FLOPS_PER_S = 100e9
CORE_FLOPS_PER_S = 50e9
# Matrix products in double precision run at half that rate; the exponentials of the kernel take a fifth more (one core, 4096
# landmarks of 1152 dimensions: 81, 37 and 30 GFLOP/s).
FLOAT64_RATE = 0.5
# A row in a pass over cluster, block and tokens, or over scores, such as one that cuts a ranking by a few bits.
PASS_ROW_S = 2e-7
# A byte of a text that is drawn, packed and unpacked across a shuffle.
SHUFFLED_BYTE_S = 6e-9
# A document that is handed to a scorer and written with its score.
SCORED_ROW_S = 3e-5
# What a round of the bandit takes beside: replaying what was scored, and choosing what to pull.
ROUND_S = 0.05
# A byte of compressed input that is read, filtered and written again, selected or counted as not selected.
COPIED_BYTE_S = 7e-9
# The page, the manifest and its plots; the scores that the page shows, with their texts.
REPORT_S = 1.0
SHOWN_S = 0.5
# Reading the influence of a document on a target, packing it into priorities and counting these.
PRIORITY_S = 1 / 4e6

# A process with torch, transformers and Beam, before it does anything, in bytes.
PROCESS_BYTES = 1.2e9
# What a split of the corpus takes in the plan that every process holds (a plan of 10^5 splits: 83 MB).
SPLIT_BYTES = 830
# What tokenising a run of texts for n-grams takes beside, and for a byte of a mean text of it.
NGRAMS_BYTES, NGRAMS_TEXT_BYTES = 0.37e9, 80_000
# Files of a split that a stage looks for, opens or reads, and those that it writes; `PASS` is a stage that only counts.
PASS = "a pass"
_REQUESTS = {
    "EmbedExamples": (6, 4),
    "FitCenters": (3, 1),
    "AssignClusters": (4, 1),
    "CountBlocks": (2, 0),
    "GatherCandidates": (3, 0),
    "CountTokenNgrams": (2, 0),
    "ScoreNgrams": (6, 1),
    "ScoreShortlist": (8, 1),
    PASS: (3, 0),
    "ShowScores": (10, 0),
    "WriteSelection": (11, 1),
}


class Requests(NamedTuple):
    """Requests to an object store.

    Attributes:
      reads: Those that read an object or ask for it.
      writes: Those that write or list.
    """

    reads: float
    writes: float


NO_REQUESTS = Requests(0.0, 0.0)


def requests(splits: int, *stages: str) -> Requests:
    """Counts the requests of some stages for all splits of the corpus; parts of a file that are read count as one."""
    each = [_REQUESTS[stage] for stage in stages]
    return Requests(*(float(splits * sum(kind)) for kind in zip(*each, strict=True)))
