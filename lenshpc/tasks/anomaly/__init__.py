"""One class is learnt; what it does not explain is found."""
