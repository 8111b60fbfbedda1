"""One module per command: parsed values in, one call, its output, nothing else."""
