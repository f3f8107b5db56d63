"""The parts that methods combine: scopes, criteria, schedules, storage."""
