"""The strategies: one file each, and nothing heavy is imported before one is used."""
