"""Scores of translations: how near the target, how much of the content is kept; never the training code."""
