"""The proof of a selection: texts to train on, texts to measure on, the trainings, and what they come to."""
