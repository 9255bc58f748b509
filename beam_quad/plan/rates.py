"""Unit costs of plans: CPU time of a document, a byte or a row on one core.

Costs are seconds of CPU time unless a name says otherwise. Unless a comment says otherwise they were measured on Zipf words
by `python -m tests.benchmarks.scale --measure`; the README there lists the runs.
"""

# Overhead of a stage on a local runner: graph, listing and artifact.
STAGE_S = 0.17
# Per byte of text: reading, tokenising for the proxy and counting n-grams; then scoring by n-grams.
COUNT_NGRAMS_BYTE_S = 4.0e-7
SCORE_NGRAMS_BYTE_S = 5.1e-7
# A core tokenises 1.5 MB of text a second (tokenizers 0.22, byte-level BPE, English).
TOKENISE_BYTE_S = 1 / 1.5e6
# The same for a sentence encoder or a static one (WordPiece), which were 1.4 times as fast in one run.
WORDPIECE_BYTE_S = 1 / 2.1e6
# Per byte of text: reading it and hashing its words; then other costs of embedding and writing a document.
HASH_BYTE_S = 5.8e-8
EMBED_ROW_S = 2.1e-5
# Signing the words of a byte of English, 13 MB a second; linking and comparing a document (`tests.benchmarks.twins`).
SIGN_BYTE_S = 1 / 13e6
COMPARE_ROW_S = 1e-5
# Reading, normalising and joining an embedding with its row, in a pass over all embeddings.
ASSIGN_ROW_S = 6e-6
# Per point of the sample for fitting centers, besides matrix products.
FIT_POINT_S = 6e-5
# Rates of float32 matrix products: in k-means, whose matrices are large, and elsewhere.
KMEANS_FLOPS_PER_S = 100e9
CORE_FLOPS_PER_S = 50e9
# Matrix products in double precision run at half that rate; the exponentials of the kernel take a fifth more (one core, 4096
# landmarks of 1152 dimensions: 81, 37 and 30 GFLOP/s).
FLOAT64_RATE = 0.5
# A row in a pass over cluster, block and tokens, or over scores, such as one that cuts a ranking by a few bits.
PASS_ROW_S = 2e-7
# Per byte of a drawn text: packing, shuffling and unpacking.
SHUFFLED_BYTE_S = 6e-9
# Passing a document to a scorer and writing its score.
SCORED_ROW_S = 3e-5
# Further cost of a bandit round: replaying scores and choosing pulls.
ROUND_S = 0.05
# Per byte of compressed input: reading, filtering, and writing it if selected or counting it if not.
COPIED_BYTE_S = 7e-9
# The page, the manifest and the plots; then the scores shown on the page, with their texts.
REPORT_S = 1.0
SHOWN_S = 0.5
# Reading the influence of a document on a target, packing it into priorities and counting these.
PRIORITY_S = 1 / 4e6

# Initial memory of a process with torch, transformers and Beam, in bytes.
PROCESS_BYTES = 1.2e9
# Memory of a split in the plan, which every process holds (83 MB for a plan of 10^5 splits).
SPLIT_BYTES = 830
# Further memory of tokenising a run of texts for n-grams: fixed, and per byte of a mean text.
NGRAMS_BYTES, NGRAMS_TEXT_BYTES = 0.37e9, 80_000
