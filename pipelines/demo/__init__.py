"""`beam-quad demo`: the whole way on a small corpus of real texts, with nothing downloaded."""
