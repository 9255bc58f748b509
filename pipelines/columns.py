"""Flags to columns: what of the input, and of the query files, is read as what."""

from beam_quad.answers import ChatTemplate
from beam_quad.corpus.batches import Columns
from beam_quad.errors import UsageError
from pipelines.run_options import RunOptions

_QUERY = "--query_text_column"


def corpus_columns(options: RunOptions, template: ChatTemplate | None = None) -> Columns:
    """The columns of the corpus.

    Args:
      options: The flags.
      template: How the proxy writes conversations; None if it has no template, or nothing is read yet.
    """
    return Columns(
        options.text_column,
        options.id_column,
        options.tokens_column,
        prompt=options.prompt_column or None,
        messages=options.messages_column or None,
        template=template if options.messages_column else None,
    )


def query_columns(options: RunOptions, template: ChatTemplate | None = None) -> Columns:
    """The columns of query files: those of the corpus where no others are given. Arguments as for `corpus_columns`.

    Raises:
      UsageError: If a text is to be read from two places.
    """
    prompt, messages = options.query_prompt_column, options.query_messages_column
    if messages and (prompt or options.query_text_column):
        raise UsageError(
            "--query_messages_column stands for prompts and answers; leave --query_prompt_column and --query_text_column out"
        )
    is_given = prompt is not None or options.query_text_column is not None
    if messages is None and not is_given:
        messages = options.messages_column
    if prompt is None and not messages:
        prompt = options.prompt_column
    return Columns(
        options.query_text_column or options.text_column,
        text_flag=_QUERY,
        prompt=None if messages else prompt or None,
        messages=messages or None,
        template=template if messages else None,
    )
