"""Parts of the data preparation: download, cleaning of the text, sample corpus, tokenizer."""
