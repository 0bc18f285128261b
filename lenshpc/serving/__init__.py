"""A page of the runs in a folder, for one reader's browser: it reads, and changes nothing."""
