"""From a judged run to files for people and programs: figures, HTML, Markdown, JSON."""
