"""attnlib: transformers composed from attention parts."""
