"""A model card: what a model is, what it learnt from, how good it is, and what it must not be used for."""
