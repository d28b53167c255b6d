"""Account for prepared data: what each stage dropped, epochs, and where tokens come from."""
