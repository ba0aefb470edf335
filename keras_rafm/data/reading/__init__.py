"""Reading of files: from blocks of raw rows to shuffled batches for a model, in parallel."""
