"""Files and arrays -> batches."""
