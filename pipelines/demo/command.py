"""The demo: a corpus, a proxy model and a selection, made on this machine from nothing but installed packages."""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import torch
import transformers

from beam_quad import errors, gradients, identity, seeding
from pipelines import parsing, quad
from pipelines.demo import corpus, evaluation, proxy, smollm2, summary, texts


@dataclasses.dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
      num_documents: Documents of the corpus.
      num_shards: Shards of the corpus.
      num_query: Texts to steer the selection, and as many to measure it.
      training: How the proxy model is trained from scratch.
      evaluation: How it is trained further on each selection.
      num_seeds: Repeats of the evaluation.
      budget_tokens: Tokens to select.
      quad: More options of `pipelines.quad`.
    """

    num_documents: int
    num_shards: int
    num_query: int
    training: proxy.Recipe
    evaluation: proxy.Recipe
    num_seeds: int
    budget_tokens: int
    quad: tuple[str, ...]


FULL = Size(
    num_documents=4500,
    num_shards=12,
    num_query=200,
    training=proxy.Recipe(),
    evaluation=proxy.Recipe(num_tokens=100_000, learning_rate=5e-4),
    num_seeds=3,
    budget_tokens=100_000,
    quad=("--embedder=minilm", "--embedder_max_tokens=128", "--curvature_examples=200"),
)
QUICK = Size(
    num_documents=300,
    num_shards=4,
    num_query=20,
    training=proxy.Recipe(num_tokens=20_000, window=128),
    evaluation=proxy.Recipe(num_tokens=4_000, window=128, learning_rate=5e-4),
    num_seeds=1,
    budget_tokens=8_000,
    quad=("--embedder=hashing", "--curvature_examples=48", "--num_rounds=4", "--threads=1"),
)


# The names in the table, for our selection and for its rivals: each rival's flags of `beam-quad select`.
OURS = "beam_quad, by default"
RIVALS = {
    "Quad's bandit over clusters": ("--policy=quad", "--acceptance=block"),
    "DSIR, n-grams of words": ("--policy=dsir",),
    "n-grams of the proxy's tokens": ("--policy=ngram",),
    "cosine to the nearest query text": ("--policy=similarity",),
}


class Clock:
    """Prints lines with the seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, line: str) -> None:
        """Prints a line."""
        print(f"[{time.monotonic() - self._start:5.0f} s] {line}", flush=True)


@dataclasses.dataclass(frozen=True)
class Demo:
    """One run of the demo; every part keeps what it finds done.

    Attributes:
      output: Its folder.
      size: How large everything is.
      budget_tokens: Tokens to select.
      query: Name of the query set.
      proxy: `scratch` or `smollm2`.
      seed: The seed of every draw.
      say: Prints a line of progress.
    """

    output: pathlib.Path
    size: Size
    budget_tokens: int
    query: str
    proxy: str
    seed: int
    say: Clock

    @property
    def corpus(self) -> corpus.Corpus:
        """The folder of the corpus."""
        size = self.size
        return corpus.Corpus(
            self.output / "data",
            num_documents=size.num_documents,
            num_shards=size.num_shards,
            query=self.query,
            num_query=size.num_query,
            num_heldout=size.num_query,
            seed=self.seed,
        )

    @property
    def small_model(self) -> pathlib.Path:
        """The Llama trained from scratch, which the evaluation trains further whatever the proxy is."""
        return self.output / "proxy"

    @property
    def selection(self) -> pathlib.Path:
        """The output of `beam-quad select`."""
        return self.output / f"selection-{self.proxy}-{self.budget_tokens}"

    @property
    def artifacts(self) -> pathlib.Path:
        """What selections of other budgets share."""
        return self.output / "artifacts"

    def quad_arguments(self) -> list[str]:
        """The arguments of `beam-quad select`."""
        is_small = self.proxy == "scratch"
        model = self.small_model if is_small else self.output / self.proxy
        return [
            f"--input={self.corpus.shards}",
            f"--query={self.corpus.query_file}",
            f"--output={self.selection}",
            f"--artifacts={self.artifacts}",
            f"--budget_tokens={self.budget_tokens}",
            f"--proxy_model={model}",
            f"--seed={self.seed}",
            *self.size.quad,
            # A hundred times the parameters: a few examples must do for the curvature (the last flag counts).
            *([] if is_small else ["--curvature_examples=64"]),
        ]

    def prepare(self) -> list[texts.Document]:
        """Makes the corpus, the query set and the proxy model; returns the corpus."""
        if self.proxy == "smollm2":
            smollm2.gguf_folder()  # refuse now what would fail in a minute
        self.say("corpus and query set: real texts of installed packages, and noise")
        is_new = corpus.make_corpus(self.corpus)
        documents = corpus.read_documents(self.corpus)
        self.say(
            f"{'made' if is_new else 'kept'} {len(documents):,} documents of "
            f"{len({d.source for d in documents})} sources in {self.corpus.shards}"
        )
        self._make(self.small_model, lambda folder: self._train(documents, folder))
        if self.proxy == "smollm2":
            self.say("SmolLM2-135M, from the package's GGUF file to safetensors")
            self._make(self.output / "smollm2", smollm2.smollm2_proxy)
        return documents

    def _train(self, documents: Sequence[texts.Document], folder: pathlib.Path) -> None:
        self.say("proxy model: a Llama of 1.1 M parameters, from scratch, on a uniform sample")
        proxy.train_proxy(
            [d.text for d in documents], folder, self.size.training, self.seed, self.say
        )

    def _make(self, folder: pathlib.Path, make: Callable[[pathlib.Path], None]) -> None:
        if folder.exists():
            self.say(f"kept the model in {folder}")
            return
        unfinished = folder.with_name(folder.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        make(unfinished)
        # Renamed last, so a folder of the final name is complete.
        unfinished.rename(folder)

    def select(self) -> int:
        """Runs `beam-quad select`; returns its exit code."""
        self.say(f"selection of {self.budget_tokens:,} tokens: {self.command()}")
        return quad.main(self.quad_arguments())

    def select_rivals(self) -> dict[str, pathlib.Path]:
        """Runs `beam-quad select` for each of `RIVALS` on the same artifacts; returns the outputs by name."""
        outputs = {}
        for number, (name, flags) in enumerate(RIVALS.items()):
            outputs[name] = self.selection.with_name(f"{self.selection.name}-rival-{number}")
            self.say(f"a rival: {name}, {' '.join(flags)}")
            arguments = [*self.quad_arguments(), f"--output={outputs[name]}", *flags]
            with contextlib.redirect_stdout(io.StringIO()):
                if quad.main(arguments):
                    raise errors.UsageError(f"the rival {name!r} failed; its error stands above")
        return outputs

    def command(self) -> str:
        """The command line of the selection."""
        return "beam-quad select " + shlex.join(self.quad_arguments())

    def evaluate(
        self, documents: Sequence[texts.Document], selections: Mapping[str, Sequence[str]]
    ) -> evaluation.HeldOutLoss:
        """Trains the small model further, on each selection and on random texts of as many tokens."""
        kept = self._losses(selections)
        if kept.exists():
            return evaluation.HeldOutLoss(**json.loads(kept.read_text()))
        self.say("evaluation: training the proxy further")
        losses = evaluation.held_out_loss(
            self.small_model,
            selections,
            [d.text for d in documents],
            corpus.read_jsonl(self.corpus.heldout_file),
            self.size.evaluation,
            self.size.num_seeds,
            self.seed,
            self.say,
        )
        kept.write_text(json.dumps(dataclasses.asdict(losses)) + "\n")
        return losses

    def _losses(self, selections: Mapping[str, Sequence[str]]) -> pathlib.Path:
        """Names the file of the losses by the model, the training and the selected texts."""
        made_from = identity.digest(
            gradients.content_fingerprint(str(self.small_model)),
            self.size.evaluation,
            self.size.num_seeds,
            {name: seeding.digest(*chosen) for name, chosen in selections.items()},
        )
        return self.selection.with_name(f"{self.selection.name}-{made_from[:12]}.losses.json")

    def run(self, prepare_only: bool) -> int:
        """Runs all parts and prints the table; returns an exit code."""
        documents = self.prepare()
        if prepare_only:
            print(f"\nready; select with\n\n  {self.command()}\n")
            return 0
        if code := self.select():
            return code
        rows = summary.read_selection(self.selection)
        outputs = {OURS: self.selection, **self.select_rivals()}
        selections = {
            name: [row["text"] for row in summary.read_selection(output)]
            for name, output in outputs.items()
        }
        losses = self.evaluate(documents, selections)
        table = summary.render(
            [d.source for d in documents],
            [row["source"] for row in rows],
            summary.read_manifest(self.selection),
            losses,
        )
        self.say("done\n")
        print(f"{table}\n\n  report: {self.selection / 'report.html'}")
        return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo from a command line.

    Returns:
      Exit code: 0; 2 if it cannot be done as asked; 1 if a selection failed.
    """
    options = _parser().parse_args(argv)
    torch.set_num_threads(os.cpu_count() or 1)
    transformers.utils.logging.disable_progress_bar()  # it would only report the loading of shards
    size = QUICK if options.quick else FULL
    demo = Demo(
        output=pathlib.Path(options.output).absolute(),
        size=size,
        budget_tokens=getattr(options, "budget_tokens", size.budget_tokens),
        query=options.query,
        proxy=options.proxy,
        seed=options.seed,
        say=Clock(),
    )
    try:
        return demo.run(options.prepare_only)
    except errors.UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="beam-quad demo",
        description="Selects from a small corpus of real texts, made on this machine; downloads nothing. "
        "Run it again to go on where it stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--output", default="demo_run", help="folder for everything")
    add(
        "--budget_tokens",
        type=parsing.count,
        default=argparse.SUPPRESS,
        help=f"tokens to select (default: {FULL.budget_tokens:,}, with --quick {QUICK.budget_tokens:,})",
    )
    add("--query", choices=sorted(texts.QUERIES), default="medicine", help="what to get good at")
    add(
        "--proxy",
        choices=("scratch", "smollm2"),
        default="scratch",
        help="whose gradients count; smollm2 (135 M) takes about half an hour on 2 cores",
    )
    add("--seed", type=int, default=0, help="of every draw")
    add("--quick", action="store_true", help="tiny and meaningless: a test of the installation")
    add("--prepare_only", action="store_true", help="corpus and models only; prints the command")
    return parser
