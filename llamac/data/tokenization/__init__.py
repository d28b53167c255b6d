"""Choose, train and compare tokenizers, and write cleaned text as tokens."""
