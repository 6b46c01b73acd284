"""Studies of the papers' tables: the same training with one thing changed, over folds, beside the published figures.

Composes presets, training runs and metrics. Knows nothing about the command line.
"""
