"""The input: its rows, embeddings, sampled texts and repeated ids."""
