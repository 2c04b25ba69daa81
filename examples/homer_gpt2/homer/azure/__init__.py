"""Azure Machine Learning: what the `aml_*.py` scripts share, and an emulator to try them."""
