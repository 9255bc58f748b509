"""What is saved in files, in memory."""

import io
from typing import Any


def saved(total: Any) -> io.BytesIO:
    """Saves a sum, or a basis, and goes back to the start of its file."""
    file = io.BytesIO()
    total.save(file)
    file.seek(0)
    return file
