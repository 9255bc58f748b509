"""The sections of the page, one function each: data in, a `Section` or None out."""
