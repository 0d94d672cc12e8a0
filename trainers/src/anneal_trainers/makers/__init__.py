"""Makers: rows for a task, made of source code. Each takes documents and yields rows, the same for the same content."""
