"""The roles of the columns of the input and of query files, from flags."""

from beam_quad.answers import ChatTemplate
from beam_quad.corpus.batches import Columns
from beam_quad.errors import UsageError
from pipelines.run_options import RunOptions

_QUERY = "--query_text_column"


def corpus_columns(options: RunOptions, template: ChatTemplate | None = None) -> Columns:
    """Returns the columns of the corpus.

    Args:
      options: The flags.
      template: The proxy's chat template; None if it has none, or is not read yet.
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
    """Returns the columns of query files, by default those of the corpus; arguments as for `corpus_columns`.

    Raises:
      UsageError: If the flags name two sources for a text.
    """
    prompt, messages = options.query_prompt_column, options.query_messages_column
    if messages and (prompt or options.query_text_column):
        raise UsageError(
            "--query_messages_column stands for prompts and answers; leave --query_prompt_column and --query_text_column out"
        )
    is_given = prompt is not None or options.query_text_column is not None
    # A column that is given for queries replaces the corpus's conversations; an empty name stands for none.
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
