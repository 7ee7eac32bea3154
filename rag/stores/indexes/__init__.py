"""Indexes over vectors (FAISS) and over words (tantivy); none knows of a knowledge base."""
