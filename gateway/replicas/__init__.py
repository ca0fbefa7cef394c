"""Engine processes as the gateway sees them: spawned, watched, spoken to."""
