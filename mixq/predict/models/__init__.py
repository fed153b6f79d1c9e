"""Networks that published tables name, as lists of operations without weights."""
