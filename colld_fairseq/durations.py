"""How long audio is, in the unit that people would take."""


def duration_text(seconds: float) -> str:
    """`41.3 s` below two minutes, `12.4 min` below two hours, `2.47 h`."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.2f} h"
