"""From the members' predictions to one judged set: gate, merge, baseline, statistics."""
