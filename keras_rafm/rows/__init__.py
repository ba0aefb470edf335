"""Rows of tables: reading and writing them, sparse gradients, idle decay, several replicas."""
