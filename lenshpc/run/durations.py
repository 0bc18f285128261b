"""Durations as people say them."""


def format_seconds(seconds: float) -> str:
    """Return seconds as people say them: `1 h 05 min`, `3 min 12 s`, `45 s`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
