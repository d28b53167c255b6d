"""Weights and tokenizers of other formats: Hugging Face, Meta and GGUF, in and out."""
