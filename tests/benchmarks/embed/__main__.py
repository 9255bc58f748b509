"""What does embedding cost beyond the encoder's arithmetic, and what do vectors of tokens give away?

    python -m tests.benchmarks.embed [--quick]

Asked are

- how busy a device is. A stand-in takes the time that an H200's arithmetic would take (40 % of its bf16 rate), and the
  tokenizers, the files and the stage are the real ones. This machine cannot feed it as eight threads do: the device is
  slower by the ratio. The bound is what the threads could feed if they did nothing but tokenise, in a plain loop;
- how fast the stage is with MiniLM on the CPU, over a plain loop of `SentenceTransformer.encode` over the texts in order
  of length and of the proxy's tokenizer;
- how fast vectors of tokens are, distilled from MiniLM, over MiniLM, and how much their clusters tell of the documents'
  domains (normalised mutual information), over those of MiniLM's vectors; and how well cosines single out a domain (AUC).
"""

import argparse
import json
import os
import pathlib
import tempfile
import warnings

# Before torch is imported: threads that spin while they wait would count as work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from beam_quad.embedding import EmbedderSpec, StaticSpec, load_embedder
from tests.benchmarks.embed import busy, clusters, rates
from tests.benchmarks.embed.material import Material, prepare

_CORES = 2
_THREADS = 8


def devices(material: Material) -> dict[str, dict[str, float]]:
    """Measures stand-ins, fed by this machine and as by eight threads, and prints a line each."""
    head = ("threads", "busy", "bound", "of bound", "seconds", "spare", "CPU/least")
    print(f"{'encoder':>15}" + "".join(f"{name:>10}" for name in head))
    found: dict[str, dict[str, float]] = {}
    for shape in busy.SHAPES:
        for threads in (_CORES, _THREADS):
            own = busy.measure(material, shape, threads)
            figures = (own.share, own.bound, own.share / own.bound, own.seconds, own.spare_cores)
            print(
                f"{shape:>15}{threads:>10}"
                + "".join(f"{figure:>10.3g}" for figure in (*figures, own.cpu_over_least)),
                flush=True,
            )
            found[f"{shape}, {threads} threads"] = {
                "busy": round(own.share, 3),
                "bound": round(own.bound, 3),
                "cpu_over_least": round(own.cpu_over_least, 3),
            }
    return found


def static(material: Material, num_texts: int) -> dict[str, float]:
    """Measures vectors of tokens, and prints what they are held against."""
    torch.set_num_threads(1)
    encoder = EmbedderSpec("minilm", num_threads=1)
    models = {
        "minilm": load_embedder(encoder),
        "static": load_embedder(StaticSpec(encoder)),
        "hashing": load_embedder(EmbedderSpec("hashing")),
    }
    few = material.long[: max(64, num_texts // 8)]
    speed = {name: rates.cpu_rate(model, few) for name, model in models.items()}
    chosen = np.random.default_rng(0).permutation(len(material.texts))[:num_texts]
    texts, labels = [material.texts[i] for i in chosen], material.labels[chosen]
    points = {name: model.embed(texts) for name, model in models.items()}
    quality = {name: clusters.information(own, labels, texts) for name, own in points.items()}
    singled = {name: clusters.singled_out(own, labels) for name, own in points.items()}
    for name in models:
        print(
            f"{name:>15}{speed[name]:>9.0f} documents per CPU second{quality[name]:>8.3f} NMI"
            f"{singled[name]:>8.3f} AUC"
        )
    return {
        "static_over_encoder": round(speed["static"] / speed["minilm"], 1),
        "static_nmi_over_encoder": round(quality["static"] / quality["minilm"], 3),
        "hashing_nmi_over_encoder": round(quality["hashing"] / quality["minilm"], 3),
        "auc": {name: round(auc, 3) for name, auc in singled.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.embed", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="few documents")
    parser.add_argument("--length", type=int, default=5000, help="mean characters of a document")
    options = parser.parse_args()
    # Of what sentence-transformers imports.
    warnings.filterwarnings("ignore", category=FutureWarning)
    num_busy, num_real, num_static = (4000, 90, 400) if options.quick else (16000, 900, 2000)
    with tempfile.TemporaryDirectory(prefix="embed-") as folder:
        material = prepare(pathlib.Path(folder), 4500, options.length, num_busy)
        print(f"{num_busy:,} texts of {np.mean([len(t) for t in material.long]):,.0f} characters")
        fed = devices(material)
        real = rates.stage_and_loop(material, num_real, _CORES)
        print(
            f"MiniLM, documents per second: stage {real.stage:.1f}, loop {real.loop:.1f}; "
            f"stage over loop {real.over_loop:.2f}, by CPU time {real.cpu_over_loop:.2f}",
            flush=True,
        )
        result = {
            "device_busy": fed[f"bge-large, {_THREADS} threads"]["busy"],
            "devices": fed,
            "docs_per_second_over_encode_loop": round(real.over_loop, 3),
            "docs_per_cpu_second_over_encode_loop": round(real.cpu_over_loop, 3),
            **static(material, num_static),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
