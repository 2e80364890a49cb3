"""The embedder: all-MiniLM-L6-v2, a text's meaning as a direction of 384 numbers."""
