"""Answers from Kimi in a shell: the package behind the command ``kimi``."""

__version__ = "0.1.0"
