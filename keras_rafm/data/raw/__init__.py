"""What every reader shares: raw columns and blocks of rows, files, and errors that name the place."""
