"""Many prompts: records in, a ledger that survives anything, results out."""
