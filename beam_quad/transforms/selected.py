"""Reads a selection once it is complete, for whatever a pipeline does with it next."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import apache_beam as beam
from apache_beam.pvalue import PCollection

from beam_quad.answers import plain
from beam_quad.artifacts import files
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.rows import read_rows
from beam_quad.corpus.splits import plan_input
from beam_quad.records import Split
from beam_quad.transforms.elements import Token

_BATCH_ROWS = 256


class Document(NamedTuple):
    """A selected document: its id, its text and its tokens."""

    example_id: str
    text: str
    tokens: int


@dataclasses.dataclass
class ReadSelection(beam.PTransform):
    """Reads the documents of a selection.

    Takes the token of the stage that wrote it and emits each document once, in no order; none if nothing is selected.

    Args:
      output: The output directory.
      columns: Roles of the input's columns.
    """

    output: str
    columns: Columns

    def expand(self, tokens: PCollection[Token]) -> PCollection[Document]:
        own = dataclasses.replace(
            self.columns, id="beam_quad.example_id", tokens="beam_quad.tokens", score=None
        )
        return (
            tokens
            | "List" >> beam.FlatMap(_splits, self.output, own).with_output_types(Split)
            # One worker lists the parts; all read them.
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.FlatMap(_documents, own).with_output_types(Document)
        )


def _splits(_: Token, output: str, columns: Columns) -> tuple[Split, ...]:
    folder = files.join(output, "selected")
    # Planning refuses a folder without files, but a selection may be empty.
    if not files.find(folder):
        return ()
    plan = plan_input(
        [folder],
        text_column=columns.text,
        prompt_column=columns.prompt,
        messages_column=columns.messages,
        flag=folder,
    )
    return plan.splits


def _documents(split: Split, columns: Columns) -> Iterator[Document]:
    for batch in read_rows(split, columns, _BATCH_ROWS):
        counts = () if batch.tokens is None else batch.tokens.tolist()
        for example_id, text, tokens in zip(batch.ids, batch.texts, counts, strict=True):
            yield Document(example_id, plain(text or ""), tokens)
