"""What a run reads and selects: files of texts in their formats, their splits and rows, and the parts of a selection."""
