"""What a run keeps of the selection that it goes on from."""
