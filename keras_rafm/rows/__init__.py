"""Rows of tables: reading, writing, sparse gradients, idle decay."""
