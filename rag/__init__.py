"""Question answering over a company's documents, with answers that can be checked."""

__version__ = "0.1.0"
