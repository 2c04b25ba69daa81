"""Model types against PyTorch: the zoo, what each is checked for, and the table that is made."""
