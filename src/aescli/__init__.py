"""aescli: score, evaluate and personalise image aesthetics and facial beauty in batch."""

__version__ = "0.1.0"
