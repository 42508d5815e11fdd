"""Files for accountants' systems: CSV, JSON Lines and Parquet of ledger lines in the customer's account codes."""
