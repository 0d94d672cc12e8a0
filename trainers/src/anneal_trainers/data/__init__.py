"""Rows: read from sources, made into units of tokens, packed into batches."""
