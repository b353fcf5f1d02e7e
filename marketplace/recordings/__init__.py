"""Uploaded takes: kept, decoded and judged by their gates. Knows an owner, no claim."""
