"""GGUF: one file of metadata, tokenizer and tensors."""
