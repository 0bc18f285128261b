"""Images that stand in for a survey's: numbers → scene → pixels → files."""
