"""What a run is: its recipe, its Plan, its folder, and what makes it complete."""
