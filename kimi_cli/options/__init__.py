"""Options that several commands share: their types, their completion, their bundles."""
