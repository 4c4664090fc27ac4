"""What users would otherwise run, in its best form; runs in an environment of its own."""
