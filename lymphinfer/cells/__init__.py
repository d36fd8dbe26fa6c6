"""The nucleus table: its schema, its part files, and reading them back."""
