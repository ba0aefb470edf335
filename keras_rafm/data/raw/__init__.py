"""Raw columns: what readers produce."""
