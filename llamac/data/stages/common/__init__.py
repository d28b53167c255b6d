"""Parts that several stages of cleaning share: sentences, words, hash tables, arrays on disk."""
