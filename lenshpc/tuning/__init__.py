"""`lenshpc tune`: a search of recipes by training trials, of which none reads a test row."""
