"""Translating pictures with a trained generator: needs a checkpoint or translator file, never the training code."""
