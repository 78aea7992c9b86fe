"""Evaluation: real bytes of real files, other codecs, BD-rate. Nothing outside `cli` imports this package."""
