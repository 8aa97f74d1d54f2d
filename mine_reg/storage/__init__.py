"""Files that are whole or absent, and results that are recognised by the content they were made from."""
