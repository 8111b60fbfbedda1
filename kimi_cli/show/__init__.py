"""What a person sees: answers, tables."""
